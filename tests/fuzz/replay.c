/* SPDX-License-Identifier: Apache-2.0 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

/* The main program of a fuzz target that is built without libFuzzer: gives it the files named, one after the other. */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int replay(const char *path)
{
	FILE *f = fopen(path, "rb");
	uint8_t *bytes = NULL;
	size_t len = 0;

	if (!f) {
		perror(path);
		return -1;
	}
	for (size_t n = 1; n;) {
		bytes = realloc(bytes, len + 65536);
		if (!bytes)
			abort();
		n = fread(bytes + len, 1, 65536, f);
		len += n;
	}
	fclose(f);
	/* exactly as large as the input, so that sanitizers see a read behind it */
	bytes = realloc(bytes, len ? len : 1);
	LLVMFuzzerTestOneInput(bytes, len);
	free(bytes);
	return 0;
}

int main(int argc, char **argv)
{
	int failed = 0;

	for (int i = 1; i < argc; i++)
		failed |= replay(argv[i]);
	printf("%d inputs\n", argc - 1);
	return failed ? 1 : 0;
}
