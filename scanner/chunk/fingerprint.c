/* SPDX-License-Identifier: Apache-2.0 */
#include "scanner/chunk/fingerprint.h"

extern const struct fingerprint_isa fingerprint_avx512, fingerprint_avx2, fingerprint_baseline;

const struct fingerprint_isa *const fingerprint_isas[] = {
#ifdef __x86_64__
	&fingerprint_avx512,
	&fingerprint_avx2,
#endif
	&fingerprint_baseline,
	NULL,
};

bool fingerprint_isa_runs(const struct fingerprint_isa *isa)
{
#ifdef __x86_64__
	if (isa == &fingerprint_avx512)
		return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
		       __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
	if (isa == &fingerprint_avx2)
		return __builtin_cpu_supports("avx2");
#endif
	return isa == &fingerprint_baseline;
}

const struct fingerprint_isa *fingerprint_best(void)
{
	const struct fingerprint_isa *const *isa = fingerprint_isas;

	while (!fingerprint_isa_runs(*isa))
		isa++;
	return *isa;
}
