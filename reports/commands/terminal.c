/* SPDX-License-Identifier: Apache-2.0 */
#include "reports/commands/terminal.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "scanner/base/lock_file.h"
#include "scanner/base/progress.h"
#include "scanner/base/text.h"
#include "scanner/base/units.h"

static struct {
	struct progress progress;
	bool terminal, line; /* stderr is one; a line of progress stands on it */
	volatile sig_atomic_t wanted;
	uint64_t begun, last; /* ns */
} shown;

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

struct stopper term_stopper;
const struct scan_watch term_watch = { term_progress, term_problem, NULL };

/* ---- speaking ---- */

const char *term_safe(const char *s, char *buf, size_t room)
{
	text_escape_terminal(s, true, buf, room);
	return buf;
}

char *term_size(uint64_t bytes)
{
	static char room[8][UNITS_SIZE_ROOM];
	static unsigned turn;

	turn = (turn + 1) % 8;
	return units_size(bytes, room[turn], sizeof(room[turn]));
}

void term_clear(void)
{
	if (shown.line)
		fputs("\r\033[K", stderr);
	shown.line = false;
}

bool term_try_again(struct err *err, uint64_t until)
{
	if (lock_file_is_held(err))
		term_progress(NULL, &(struct scan_progress){ .stage = "waiting for another dedupscan" });
	return lock_file_try_again(err, until, &term_stopper);
}

void term_complain(const struct err *err)
{
	char text[4 * sizeof(err->text)];

	term_clear();
	fprintf(stderr, "dedupscan: %s\n", term_safe(err->text, text, sizeof(text)));
}

static int status_of(const struct err *err)
{
	switch (err->kind) {
	case ERR_CANCELED:
		return EXIT_STOPPED;
	case ERR_USAGE:
		return EXIT_USAGE;
	case ERR_BUSY:
		return EXIT_BUSY;
	default:
		return EXIT_FAILED;
	}
}

int term_fail(const struct err *err)
{
	term_complain(err);
	return status_of(err);
}

int term_cannot_begin(const struct err *err)
{
	if (err->kind != ERR_USAGE || err->errnum) /* no option is to be looked up for a file that is not there */
		return term_fail(err);
	if (err->text[0])
		term_complain(err);
	fprintf(stderr, "dedupscan: try 'dedupscan --help'\n");
	return EXIT_USAGE;
}

int term_printed(int status)
{
	struct err err = ERR_INIT;

	if (fflush(stdout) == 0 && !ferror(stdout))
		return status;
	if (errno == EPIPE) /* the reader has seen enough */
		return status;
	err_errno(&err, "cannot write to standard output");
	return term_fail(&err);
}

void term_problem(void *ctx, const char *path, const struct err *why)
{
	char name[4 * PATH_MAX], text[4 * sizeof(why->text)];

	(void)ctx;
	term_clear();
	fprintf(stderr, "dedupscan: '%s': %s\n", term_safe(path, name, sizeof(name)), term_safe(why->text, text, sizeof(text)));
}

void term_progress(void *ctx, const struct scan_progress *p)
{
	struct progress_state state = { p->stage, p->done, p->total, p->bytes, p->nr_images_done, p->bytes ? p->nr_images : 0,
					"images" };
	uint64_t now = now_ns();
	char line[256];

	(void)ctx;
	progress_line(&shown.progress, &state, now, line, sizeof(line));
	if (!shown.wanted && (!shown.terminal || now - shown.last < 200000000 || now - shown.begun < 1000000000))
		return;
	shown.wanted = 0;
	shown.last = now;
	fprintf(stderr, shown.terminal ? "\r%s\033[K" : "%s\n", line);
	shown.line = shown.terminal;
	fflush(stderr);
}

void term_stage(void *ctx, const char *stage, uint64_t done, uint64_t total)
{
	struct scan_progress p = { .stage = stage, .done = done, .total = total, .bytes = true };

	(void)ctx;
	term_progress(NULL, &p);
}

/* ---- signals ---- */

static void on_stop(int sig)
{
	(void)sig;
	atomic_store(&term_stopper.flag, 1);
}

static void on_usr1(int sig)
{
	(void)sig;
	shown.wanted = 1;
}

void term_begin(void)
{
	struct sigaction stop = { .sa_handler = on_stop }, usr1 = { .sa_handler = on_usr1 }, ignore = { .sa_handler = SIG_IGN };

	sigaction(SIGINT, &stop, NULL);
	sigaction(SIGTERM, &stop, NULL);
	sigaction(SIGHUP, &stop, NULL);
	sigaction(SIGUSR1, &usr1, NULL);
	sigaction(SIGPIPE, &ignore, NULL);
	sigaction(SIGXFSZ, &ignore, NULL); /* a limit of file sizes is an error, not the end */
	shown.terminal = isatty(STDERR_FILENO);
	shown.begun = now_ns();
}

