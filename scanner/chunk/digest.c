/* SPDX-License-Identifier: Apache-2.0 */
#include "scanner/chunk/digest.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef HAVE_LIBCRYPTO
#include <openssl/crypto.h>
#include <openssl/evp.h>
#endif
#ifdef __x86_64__
#include <cpuid.h>
#endif

#include "scanner/base/checked.h"
#include "scanner/base/cpu.h"
#include "scanner/base/late.h"

/*
 * One node is open at each level, the one that the segment added last is beneath.  A segment beneath another node closes the open
 * one, whose digest is a child one level up, which may close the node there, and so on.  Nodes in which nothing was put are never
 * opened: they are null.
 *
 * libcrypto is loaded when the first digest is wanted, and told to read no configuration and to make no tables of what else it
 * knows.  Linked and set up as usual it takes 2 of the 6.5 ms of a clone, which wants no digest.
 */

/* ---- bytes ---- */

void digest_two_shani(const void *a, const void *b, size_t len, uint8_t ret_a[DIGEST_SIZE], uint8_t ret_b[DIGEST_SIZE]);

void (*digest_two_at_once)(const void *a, const void *b, size_t len, uint8_t ret_a[DIGEST_SIZE], uint8_t ret_b[DIGEST_SIZE]);

#ifdef HAVE_LIBCRYPTO
#define TEXT_OF(x) #x
#define TEXT(x) TEXT_OF(x)
#define CALLS(X) X(OPENSSL_init_crypto) X(EVP_MD_fetch) X(EVP_Digest)
LATE_LIBRARY("libcrypto.so." TEXT(OPENSSL_SHLIB_VERSION), "libcrypto, which makes digests,", "libssl" TEXT(OPENSSL_SHLIB_VERSION),
	     CALLS);

#define NOTHING_ELSE                                                                                                       \
	(OPENSSL_INIT_NO_LOAD_CONFIG | OPENSSL_INIT_NO_LOAD_CRYPTO_STRINGS | OPENSSL_INIT_NO_ADD_ALL_CIPHERS |                 \
	 OPENSSL_INIT_NO_ADD_ALL_DIGESTS | OPENSSL_INIT_NO_ATEXIT)

static EVP_MD *sha256;

/* Asking the processor is slow in a virtual machine. */
static void choose(void)
{
#ifdef __x86_64__
	unsigned a, b, c, d;

	if (CPU_HAS(SSE4_1) && __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & bit_SHA))
		digest_two_at_once = digest_two_shani;
#endif
}

static void load(void)
{
	if (late_load(&library, NULL) < 0)
		return;
	lib.OPENSSL_init_crypto(NOTHING_ELSE, NULL);
	sha256 = lib.EVP_MD_fetch(NULL, "SHA256", NULL);
	choose();
}

int digest_prepare(struct err *err)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, load);
	if (late_load(&library, err) < 0)
		return -1;
	return sha256 ? 0 : err_set(err, ERR_UNSUPPORTED, "libcrypto, which makes digests, has no SHA-256");
}

void digest_bytes(const void *buf, size_t len, uint8_t ret[DIGEST_SIZE])
{
	/* A wrong digest must not be taken for one. */
	if (digest_prepare(NULL) < 0 || lib.EVP_Digest(buf, len, ret, NULL, sha256, NULL) != 1)
		abort();
}
#else
int digest_prepare(struct err *err)
{
	return err_set(err, ERR_UNSUPPORTED, "this program was built without libcrypto, which digests need");
}

void digest_bytes(const void *buf, size_t len, uint8_t ret[DIGEST_SIZE])
{
	(void)buf;
	(void)len;
	(void)ret;
	abort();
}
#endif

bool digest_is_null(const uint8_t digest[DIGEST_SIZE])
{
	static const uint8_t null[DIGEST_SIZE];

	return memcmp(digest, null, DIGEST_SIZE) == 0;
}

void digest_two(const void *a, const void *b, size_t len, uint8_t ret_a[DIGEST_SIZE], uint8_t ret_b[DIGEST_SIZE])
{
	if (digest_two_at_once) {
		digest_two_at_once(a, b, len, ret_a, ret_b);
		return;
	}
	digest_bytes(a, len, ret_a);
	digest_bytes(b, len, ret_b);
}

/* ---- the tree ---- */

unsigned digest_tree_height(uint64_t size)
{
	unsigned height = 0;

	for (uint64_t nr = div_up(size, SEGMENT_SIZE); nr > 1; nr = div_up(nr, DIGEST_FANOUT))
		height++;
	return height;
}

void digest_tree_begin(struct digest_tree *t, uint64_t size)
{
	memset(t, 0, sizeof(*t));
	t->height = digest_tree_height(size);
}

static void close_node(struct digest_tree *t, unsigned level);

static void put(struct digest_tree *t, unsigned level, uint64_t number, const uint8_t digest[DIGEST_SIZE])
{
	uint64_t node = number / DIGEST_FANOUT;

	if (level == t->height) {
		memcpy(t->root, digest, DIGEST_SIZE);
		return;
	}
	if (t->nodes[level].any && t->nodes[level].number != node)
		close_node(t, level);
	t->nodes[level].any = true;
	t->nodes[level].number = node;
	memcpy(t->nodes[level].children[number % DIGEST_FANOUT], digest, DIGEST_SIZE);
}

static void close_node(struct digest_tree *t, unsigned level)
{
	uint8_t digest[DIGEST_SIZE];

	if (!t->nodes[level].any)
		return;
	digest_bytes(t->nodes[level].children, sizeof(t->nodes[level].children), digest);
	if (t->emit)
		t->emit(t->ctx, level + 1, t->nodes[level].children, digest);
	put(t, level + 1, t->nodes[level].number, digest);
	memset(&t->nodes[level], 0, sizeof(t->nodes[level]));
}

void digest_tree_add(struct digest_tree *t, uint64_t segment, const uint8_t digest[DIGEST_SIZE])
{
	put(t, 0, segment, digest);
}

void digest_tree_end(struct digest_tree *t, uint8_t ret[DIGEST_SIZE])
{
	for (unsigned level = 0; level < t->height; level++)
		close_node(t, level);
	memcpy(ret, t->root, DIGEST_SIZE);
}

/* ---- text ---- */

char *digest_text(const uint8_t digest[DIGEST_SIZE], char buf[DIGEST_TEXT_ROOM])
{
	for (size_t i = 0; i < DIGEST_SIZE; i++)
		snprintf(buf + 2 * i, 3, "%02x", (unsigned)digest[i]);
	return buf;
}

static int hex_value(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

bool digest_parse(const char *s, uint8_t ret[DIGEST_SIZE])
{
	uint8_t digest[DIGEST_SIZE];

	for (size_t i = 0; i < DIGEST_SIZE; i++) {
		int high = hex_value(s[2 * i]), low = high < 0 ? -1 : hex_value(s[2 * i + 1]);

		if (low < 0)
			return false;
		digest[i] = (uint8_t)(high << 4 | low);
	}
	memcpy(ret, digest, DIGEST_SIZE);
	return true;
}
