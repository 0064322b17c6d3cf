/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_POOL_ID_H
#define DEDUPSCAN_POOL_ID_H

#include <stdbool.h>

#include "compactor/pool/pool_format.h"
#include "scanner/base/cleanup.h"
#include "scanner/base/vec.h"

/* A new random id (version 4 UUID), and its text form; the text as a file name: <id>.qcow2. */
int pool_new_id(uint8_t ret[POOL_ID_SIZE], struct err *err);
char *pool_id_text(const uint8_t id[POOL_ID_SIZE], char buf[POOL_ID_TEXT_ROOM]);
bool pool_id_parse(const char *text, uint8_t ret[POOL_ID_SIZE]); /* the whole text */
#define POOL_FILE_NAME_ROOM (POOL_ID_TEXT_ROOM + 6)
char *pool_id_file_name(const uint8_t id[POOL_ID_SIZE], char buf[POOL_FILE_NAME_ROOM]);
bool pool_id_parse_file_name(const char *name, uint8_t ret[POOL_ID_SIZE]);

/* A set of ids. */
struct pool_id {
	uint8_t bytes[POOL_ID_SIZE];
};
struct pool_ids {
	VEC(struct pool_id) items;
};
int pool_ids_add(struct pool_ids *s, const uint8_t id[POOL_ID_SIZE], struct err *err);
int pool_ids_of_files(int dirfd, struct pool_ids *s, struct err *err); /* that are called so */
void pool_ids_sort(struct pool_ids *s); /* before it is asked */
bool pool_ids_has(const struct pool_ids *s, const uint8_t id[POOL_ID_SIZE]);
void pool_ids_release(struct pool_ids *s);
CLEANUP_DEFINE_RELEASE(struct pool_ids, pool_ids_release)

#endif
