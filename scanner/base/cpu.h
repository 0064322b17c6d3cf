/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_CPU_H
#define DEDUPSCAN_CPU_H

#include <features.h>

/* What the processor has and the kernel lets use: CPU_HAS(AVX2).  glibc asked when the program began; to ask again, as
 * __builtin_cpu_supports() has it done at each start, takes 0.05 ms in a virtual machine, where each question is a trap. */

#ifdef __x86_64__
#if __GLIBC_PREREQ(2, 34)
#include <stdbool.h>
#include <sys/platform/x86.h>
/* As x86_cpu_active(), which shifts an int by 31. */
static inline bool cpu_is_active(unsigned feature)
{
	return __x86_get_cpuid_feature_leaf(feature / 128)->active_array[feature % 128 / 32] >> feature % 32 & 1;
}
#define CPU_HAS(feature) cpu_is_active(x86_cpu_##feature)
#else
#define CPU_HAS(feature) __builtin_cpu_supports(CPU_NAME_##feature)
#define CPU_NAME_SSE4_1 "sse4.1"
#define CPU_NAME_SSE4_2 "sse4.2"
#define CPU_NAME_AVX2 "avx2"
#define CPU_NAME_AVX512F "avx512f"
#define CPU_NAME_AVX512BW "avx512bw"
#define CPU_NAME_AVX512VL "avx512vl"
#define CPU_NAME_AVX512DQ "avx512dq"
#endif
#endif

#endif
