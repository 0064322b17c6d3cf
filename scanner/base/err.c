/* SPDX-License-Identifier: Apache-2.0 */
#include "scanner/base/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int err_set(struct err *err, enum err_kind kind, const char *fmt, ...)
{
	va_list ap;

	if (!err)
		return -1;
	err->kind = kind;
	err->errnum = 0;
	va_start(ap, fmt);
	vsnprintf(err->text, sizeof(err->text), fmt, ap);
	va_end(ap);
	return -1;
}

static enum err_kind kind_of_errno(int e)
{
	switch (e) {
	case ENOSPC:
	case EDQUOT:
	case EFBIG:
		return ERR_FULL;
	case ENOMEM:
		return ERR_MEMORY;
	case EAGAIN:
	case EBUSY:
	case ETXTBSY:
		return ERR_BUSY;
	default:
		return ERR_IO;
	}
}

static int set_errno(struct err *err, int e, const char *fmt, va_list ap)
{
	size_t len;

	if (!err)
		return -1;
	err->kind = kind_of_errno(e);
	err->errnum = e;
	vsnprintf(err->text, sizeof(err->text), fmt, ap);
	len = strlen(err->text);
	snprintf(err->text + len, sizeof(err->text) - len, ": %s", strerror(e));
	return -1;
}

int err_errno(struct err *err, const char *fmt, ...)
{
	int e = errno;
	va_list ap;

	va_start(ap, fmt);
	set_errno(err, e, fmt, ap);
	va_end(ap);
	return -1;
}

int err_named(struct err *err, const char *fmt, ...)
{
	int e = errno;
	va_list ap;

	va_start(ap, fmt);
	set_errno(err, e, fmt, ap);
	va_end(ap);
	if (err && (e == ENOENT || e == ENOTDIR))
		err->kind = ERR_USAGE;
	return -1;
}

int err_add(struct err *err, const char *fmt, ...)
{
	char context[sizeof(err->text)], joined[2 * sizeof(err->text) + 2];
	va_list ap;

	if (!err)
		return -1;
	va_start(ap, fmt);
	vsnprintf(context, sizeof(context), fmt, ap);
	va_end(ap);
	snprintf(joined, sizeof(joined), "%s: %s", context, err->text);
	memcpy(err->text, joined, sizeof(err->text));
	err->text[sizeof(err->text) - 1] = '\0';
	return -1;
}

const char *err_kind_name(enum err_kind kind)
{
	static const char *const names[] = {
		[ERR_NONE] = "none", [ERR_IO] = "io",	      [ERR_FORMAT] = "format",	 [ERR_UNSUPPORTED] = "unsupported",
		[ERR_AMBIGUOUS] = "ambiguous", [ERR_PART] = "part",
		[ERR_REFUSED] = "refused", [ERR_BUSY] = "busy", [ERR_MEMORY] = "memory", [ERR_FULL] = "full",
		[ERR_STALE] = "stale", [ERR_CANCELED] = "canceled", [ERR_USAGE] = "usage",
	};

	return names[kind];
}
