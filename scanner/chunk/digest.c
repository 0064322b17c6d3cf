/* SPDX-License-Identifier: Apache-2.0 */
#include "scanner/chunk/digest.h"

#include <dlfcn.h>
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
#define LIBCRYPTO "libcrypto.so." TEXT(OPENSSL_SHLIB_VERSION)
#define NOTHING_ELSE                                                                                                       \
	(OPENSSL_INIT_NO_LOAD_CONFIG | OPENSSL_INIT_NO_LOAD_CRYPTO_STRINGS | OPENSSL_INIT_NO_ADD_ALL_CIPHERS |                 \
	 OPENSSL_INIT_NO_ADD_ALL_DIGESTS | OPENSSL_INIT_NO_ATEXIT)

static __typeof__(EVP_Digest) *evp_digest;
static EVP_MD *sha256;
static char fault[256]; /* why there is none */

/* Asking the processor is slow in a virtual machine. */
static void choose(void)
{
#ifdef __x86_64__
	unsigned a, b, c, d;

	if (__builtin_cpu_supports("sse4.1") && __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & bit_SHA))
		digest_two_at_once = digest_two_shani;
#endif
}

static void load(void)
{
	void *lib = dlopen(LIBCRYPTO, RTLD_NOW | RTLD_LOCAL);
	__typeof__(OPENSSL_init_crypto) *init = lib ? (__typeof__(init))dlsym(lib, "OPENSSL_init_crypto") : NULL;
	__typeof__(EVP_MD_fetch) *fetch = init ? (__typeof__(fetch))dlsym(lib, "EVP_MD_fetch") : NULL;

	evp_digest = fetch ? (__typeof__(evp_digest))dlsym(lib, "EVP_Digest") : NULL;
	if (!evp_digest) {
		snprintf(fault, sizeof(fault), "%s", dlerror());
		return;
	}
	init(NOTHING_ELSE, NULL);
	sha256 = fetch(NULL, "SHA256", NULL);
	if (!sha256)
		snprintf(fault, sizeof(fault), "it has no SHA-256");
	choose();
}

int digest_prepare(struct err *err)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, load);
	return sha256 ? 0 : err_set(err, ERR_UNSUPPORTED, "libcrypto, which makes digests, cannot be used: %s", fault);
}

void digest_bytes(const void *buf, size_t len, uint8_t ret[DIGEST_SIZE])
{
	/* A wrong digest must not be taken for one. */
	if (digest_prepare(NULL) < 0 || evp_digest(buf, len, ret, NULL, sha256, NULL) != 1)
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
