/* SPDX-License-Identifier: Apache-2.0 */

/* The makefile compiles this file with the instructions that its name says; on other processors it is empty. */
#ifdef __AVX512F__
#define ISA_NAME "avx512"
#define ISA_SYMBOL fingerprint_avx512
#include "scanner/chunk/fingerprint_body.h"
#else
typedef int fingerprint_avx512_is_empty;
#endif
