/* SPDX-License-Identifier: Apache-2.0 */
#include "scanner/chunk/fingerprint.h"

#include "scanner/base/cpu.h"

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
		return CPU_HAS(AVX512F) && CPU_HAS(AVX512BW) && CPU_HAS(AVX512VL) && CPU_HAS(AVX512DQ);
	if (isa == &fingerprint_avx2)
		return CPU_HAS(AVX2);
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
