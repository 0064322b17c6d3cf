/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_JSON_TEXT_H
#define DEDUPSCAN_JSON_TEXT_H

#include <stddef.h>

#include "scanner/base/err.h"

/* JSON as text, for what a parser into a tree does not do: looking before it costs memory, and telling lines. */

/* One step down from a value: to the member `key`, or, when that is NULL, to the item `index`. */
struct json_step {
	const char *key;
	size_t index;
};

/* Fails when values are nested deeper than `depth`, or there are more of them than `values`; empty arrays and objects count
 * twice.  Of all else that may be wrong nothing is said. */
int json_text_check(const char *text, size_t len, size_t depth, size_t values, struct err *err);

/* The line, from 1, on which the value stands that the steps lead to from the outermost one; if they lead to none, that of the
 * last value that is there.  The text is JSON; keys with escapes are not found. */
size_t json_text_line(const char *text, size_t len, const struct json_step *steps, size_t nr_steps);

#endif
