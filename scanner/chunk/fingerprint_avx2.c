/* SPDX-License-Identifier: Apache-2.0 */

/* The makefile compiles this file with the instructions that its name says; on other processors it is empty. */
#ifdef __AVX2__
#define ISA_NAME "avx2"
#define ISA_SYMBOL fingerprint_avx2
#include "scanner/chunk/fingerprint_body.h"
#else
typedef int fingerprint_avx2_is_empty;
#endif
