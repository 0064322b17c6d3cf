/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_TEXT_H
#define DEDUPSCAN_TEXT_H

#include <stdbool.h>
#include <stddef.h>

/* Text that somebody else chose (file names, descriptors, messages that quote them) made safe for terminals, logs and
 * tables.
 *
 * The escaped form is one line of printable characters and can be turned back: a backslash becomes \\, a control byte
 * or a byte that is not UTF-8 becomes \xNN, and a character that moves, hides or reorders others (C1 controls,
 * bidirectional controls, line separators, zero-width and tag characters) becomes \uNNNN or \UNNNNNNNN. */

/* Well-formed UTF-8 as in RFC 3629: no overlong forms, no surrogates, nothing above U+10FFFF. */
bool text_is_utf8(const char *s);

/* Writes the escaped form of `in` to out[len], always with a NUL when len > 0, and never cuts a character or an escape
 * in two.  With utf8 false all that is not ASCII is escaped too.  Returns the length of the whole form without its NUL:
 * it was cut when that is >= len. */
size_t text_escape_terminal(const char *in, bool utf8, char *out, size_t len);

/* The same on the heap; NULL when memory is out. */
char *text_escape_new(const char *in, bool utf8);

#endif
