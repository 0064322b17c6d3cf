/* SPDX-License-Identifier: Apache-2.0 */
#define ISA_NAME "baseline"
#define ISA_SYMBOL fingerprint_baseline
#include "scanner/chunk/fingerprint_body.h"
