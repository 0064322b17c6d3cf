/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/virsh.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "scanner/base/checked.h"
#include "scanner/base/file.h"

/* How it works: virsh reads from a file in memory and writes to two others, so nobody waits for a pipe.  Machines are named
 * by their UUID, in which nothing has to be quoted. */

#define ARGS_MAX 32
#define PIVOT_TRIES 600
#define PIVOT_NS 100000000
#define SAID_MAX ((size_t)16 << 20)

/* ---- running it ---- */

static void become(const char *const *args, const int fds[3])
{
	setenv("LC_ALL", "C", 1);
	signal(SIGPIPE, SIG_DFL);
	if (dup2(fds[0], 0) >= 0 && dup2(fds[1], 1) >= 0 && dup2(fds[2], 2) >= 0)
		execvp("virsh", (char *const *)(uintptr_t)args);
	_exit(127);
}

/* All of a file in memory, with a zero behind it. */
static char *read_all(int fd, struct err *err)
{
	struct stat st;
	char *text;

	if (fstat(fd, &st) < 0)
		return err_errno(err, "cannot stat what virsh said"), NULL;
	if (st.st_size > (off_t)SAID_MAX)
		return err_null(err, ERR_REFUSED, "virsh says too much");
	text = malloc((size_t)st.st_size + 1);
	if (!text)
		return err_null(err, ERR_MEMORY, "out of memory");
	if (file_read(fd, text, (size_t)st.st_size, 0, err) < 0) {
		free(text);
		return NULL;
	}
	text[st.st_size] = '\0';
	return text;
}

/* The last of the lines that begin with "error: ": those before it say what was tried. */
static int failed(const char *const *args, int status, const char *said, struct err *err)
{
	const char *last = said, *at = said;
	int len;

	if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
		return err_set(err, ERR_UNSUPPORTED,
			       "there is no virsh, and libvirt's running machines can be reached by no other way; install "
			       "libvirt-clients, or do it while the machine is off");
	while ((at = strstr(at, "error: ")))
		last = at += strlen("error: ");
	len = (int)strcspn(last, "\n");
	if (strstr(said, "failed to connect"))
		return err_set(err, ERR_UNSUPPORTED, "libvirt does not answer: %.*s", len, last);
	return err_set(err, ERR_REFUSED, "virsh %s: %.*s", args[2], len, *last ? last : "failed");
}

static int start(const char *const *args, const int fds[3], struct err *err)
{
	int status;
	pid_t pid = fork();

	if (pid == 0)
		become(args, fds);
	if (pid < 0)
		return err_errno(err, "cannot start virsh");
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return err_errno(err, "cannot wait for virsh");
	return status;
}

/* `args` are all its words, "virsh" first and NULL last; *ret, unless NULL, is what it answered, to be freed. */
static int run(const char *const *args, const char *input, char **ret, struct err *err)
{
	CLEANUP(close_fd)
	int in = memfd_create("virsh-in", MFD_CLOEXEC),
	    out = memfd_create("virsh-out", MFD_CLOEXEC), bad = memfd_create("virsh-err", MFD_CLOEXEC);
	CLEANUP(free) char *said = NULL;
	int status;

	if (in < 0 || out < 0 || bad < 0)
		return err_errno(err, "cannot make a file in memory");
	if (input && file_write(in, input, strlen(input), 0, err) < 0)
		return -1;
	status = start(args, (const int[]){ in, out, bad }, err);
	said = status < 0 ? NULL : read_all(status ? bad : out, err);
	if (!said)
		return -1;
	if (status)
		return failed(args, status, said, err);
	if (ret)
		*ret = STEAL(said);
	return 0;
}

/* ---- disks ---- */

void virsh_disks_release(struct virsh_disks *l)
{
	vec_release(&l->items);
}

static char *next_line(char **at)
{
	char *line = strsep(at, "\n");

	while (line && !*line)
		line = strsep(at, "\n");
	return line;
}

/* "file   disk   vda   /path", in columns */
static int add_disk(const char *uuid, const char *line, struct virsh_disks *l, struct err *err)
{
	struct virsh_disk d = { .uuid = "" };
	int at = 0;

	if (sscanf(line, " file %*15s %63s %n", d.target, &at) < 1 || !at || line[at] != '/' ||
	    strlen(line + at) >= sizeof(d.source))
		return 0;
	strcpy(d.uuid, uuid);
	strcpy(d.source, line + at);
	return vec_push(&l->items, d) < 0 ? err_set(err, ERR_MEMORY, "out of memory") : 0;
}

static int add_machine(bool running, const char *uuid, struct virsh_disks *l, struct err *err)
{
	const char *const args[] = {
		"virsh", "-q", "domblklist", uuid, "--details", running ? NULL : "--inactive", NULL
	};
	CLEANUP(free) char *said = NULL;
	char *at, *line;

	if (strlen(uuid) >= VIRSH_UUID_ROOM)
		return err_set(err, ERR_REFUSED, "virsh list says something that is no UUID");
	if (run(args, NULL, &said, err) < 0)
		return -1;
	at = said;
	while ((line = next_line(&at)))
		if (add_disk(uuid, line, l, err) < 0)
			return -1;
	return 0;
}

int virsh_disks(bool running, struct virsh_disks *ret, struct err *err)
{
	static const char *const now[] = { "virsh", "-q", "list", "--uuid", NULL };
	static const char *const configured[] = { "virsh", "-q", "list", "--uuid", "--all", "--persistent", NULL };
	CLEANUP(virsh_disks_release) struct virsh_disks l = { .items = VEC_INIT };
	CLEANUP(free) char *said = NULL;
	char *at, *line;

	if (run(running ? now : configured, NULL, &said, err) < 0)
		return -1;
	at = said;
	while ((line = next_line(&at)))
		if (add_machine(running, line, &l, err) < 0)
			return -1;
	*ret = l;
	l = (struct virsh_disks){ .items = VEC_INIT };
	return 0;
}

/* ---- snapshots ---- */

/* In the argument of --diskspec a comma is written twice. */
static char *disk_argument(const char *target, const char *path)
{
	size_t room = strlen(target) + 2 * strlen(path) + 32;
	char *text = malloc(room), *to;

	if (!text)
		return NULL;
	to = text + snprintf(text, room, "%s,snapshot=external,file=", target);
	for (; *path; path++) {
		*to++ = *path;
		if (*path == ',')
			*to++ = ',';
	}
	*to = '\0';
	return text;
}

static char *other_argument(const char *target)
{
	char *text;

	return asprintf(&text, "%s,snapshot=no", target) < 0 ? NULL : text;
}

struct arguments {
	VEC(char *) items; /* those to be freed, behind --diskspec */
};

static void arguments_release(struct arguments *a)
{
	for (size_t i = 0; i < a->items.nr; i++)
		free(a->items.items[i]);
	vec_release(&a->items);
}
CLEANUP_DEFINE_RELEASE(struct arguments, arguments_release)

static int add_argument(struct arguments *a, char *text, struct err *err)
{
	if (text && vec_push(&a->items, text) == 0)
		return 0;
	free(text);
	return err_set(err, ERR_MEMORY, "out of memory");
}

static bool is_aside(const char *target, const struct virsh_aside *asides, size_t nr)
{
	for (size_t i = 0; i < nr; i++)
		if (strcmp(asides[i].target, target) == 0)
			return true;
	return false;
}

/* The first word of each line of domblklist without --details: all its disks, files or not. */
static int add_others(const char *uuid, const struct virsh_aside *asides, size_t nr, struct arguments *ret,
		      struct err *err)
{
	const char *const args[] = { "virsh", "-q", "domblklist", uuid, NULL };
	CLEANUP(free) char *said = NULL;
	char *at, *line, target[64];

	if (run(args, NULL, &said, err) < 0)
		return -1;
	at = said;
	while ((line = next_line(&at)))
		if (sscanf(line, "%63s", target) == 1 && !is_aside(target, asides, nr) &&
		    add_argument(ret, other_argument(target), err) < 0)
			return -1;
	return 0;
}

int virsh_snapshot(const char *uuid, const struct virsh_aside *asides, size_t nr, bool quiesce, struct err *err)
{
	CLEANUP(arguments_release) struct arguments specs = { .items = VEC_INIT };
	CLEANUP(free) const char **args = NULL;
	size_t n = 0;

	for (size_t i = 0; i < nr; i++)
		if (add_argument(&specs, disk_argument(asides[i].target, asides[i].path), err) < 0)
			return -1;
	if (add_others(uuid, asides, nr, &specs, err) < 0)
		return -1;
	args = calloc(ARGS_MAX + 2 * specs.items.nr, sizeof(*args));
	if (!args)
		return err_set(err, ERR_MEMORY, "out of memory");
	for (const char *const *word = (const char *const[]){ "virsh", "-q", "snapshot-create-as", uuid, "--disk-only",
							      "--atomic", "--no-metadata", NULL };
	     *word; word++)
		args[n++] = *word;
	if (quiesce)
		args[n++] = "--quiesce";
	for (size_t i = 0; i < specs.items.nr; i++) {
		args[n++] = "--diskspec";
		args[n++] = specs.items.items[i];
	}
	return run(args, NULL, NULL, err);
}

/* ---- back to one file ---- */

int virsh_mentions(const char *uuid, const char *text, struct err *err)
{
	const char *const args[] = { "virsh", "-q", "dumpxml", uuid, NULL };
	CLEANUP(free) char *said = NULL;

	return run(args, NULL, &said, err) < 0 ? -1 : strstr(said, text) != NULL;
}

/* It may say that it is ready a moment before it is. */
static int pivot(const char *uuid, const char *target, struct err *err)
{
	const char *const args[] = { "virsh", "-q", "blockjob", uuid, target, "--pivot", NULL };
	struct err why = ERR_INIT;
	int rc = -1;

	for (unsigned i = 0; rc < 0 && i < PIVOT_TRIES && (i == 0 || strstr(why.text, "not ready")); i++) {
		if (i)
			nanosleep(&(struct timespec){ .tv_nsec = PIVOT_NS }, NULL);
		rc = run(args, NULL, NULL, &why);
	}
	return rc < 0 ? err_set(err, why.kind, "%s", why.text) : 0;
}

int virsh_copy(const char *uuid, const char *target, const char *path, struct err *err)
{
	/* With synchronous writes it comes to an end however much the guest writes. */
	const char *const args[] = { "virsh",
				     "-q",
				     "blockcopy",
				     uuid,
				     target,
				     "--dest",
				     path,
				     "--format",
				     "qcow2",
				     "--shallow",
				     "--reuse-external",
				     "--transient-job",
				     "--synchronous-writes",
				     "--wait",
				     NULL };

	return run(args, NULL, NULL, err) < 0 ? -1 : pivot(uuid, target, err);
}

int virsh_commit(const char *uuid, const char *target, const char *top, const char *below, struct err *err)
{
	const char *const args[] = { "virsh", "-q",	"blockcommit", uuid,   target, "--top", top,
				     "--base", below, "--active",    "--wait", NULL };

	return run(args, NULL, NULL, err) < 0 ? -1 : pivot(uuid, target, err);
}

void virsh_abort(const char *uuid, const char *target)
{
	const char *const args[] = { "virsh", "-q", "blockjob", uuid, target, "--abort", NULL };

	run(args, NULL, NULL, NULL);
}

/* ---- configurations ---- */

int virsh_is_saved(const char *uuid, struct err *err)
{
	const char *const args[] = { "virsh", "-q", "dominfo", uuid, NULL };
	CLEANUP(free) char *said = NULL;
	char *at, *line, word[8];

	if (run(args, NULL, &said, err) < 0)
		return -1;
	at = said;
	while ((line = next_line(&at)))
		if (sscanf(line, "Managed save: %7s", word) == 1)
			return strcmp(word, "no") != 0;
	return err_set(err, ERR_REFUSED, "virsh dominfo does not say whether a machine is saved");
}

/* file='PATH', as libvirt writes it */
static char *file_attribute(const char *path, struct err *err)
{
	static const struct {
		char c;
		const char *text;
	} quoted[] = { { '&', "&amp;" }, { '<', "&lt;" }, { '>', "&gt;" }, { '\'', "&apos;" }, { '"', "&quot;" } };
	char *text = malloc(6 * strlen(path) + 16), *to = text;

	if (!text)
		return err_null(err, ERR_MEMORY, "out of memory");
	to = stpcpy(to, "file='");
	for (; *path; path++) {
		size_t i = 0;

		while (i < ARRAY_SIZE(quoted) && quoted[i].c != *path)
			i++;
		if (i < ARRAY_SIZE(quoted))
			to = stpcpy(to, quoted[i].text);
		else
			*to++ = *path;
	}
	strcpy(to, "'");
	return text;
}

/* What libvirt notes of the chain below a disk's file, behind its <source>; it finds that by itself. */
static void drop_chain(char *source)
{
	char *target = strstr(source, "<target "), *begin = strstr(source, "<backingStore"), *end = NULL;

	for (char *at = begin; target && at && (at = strstr(at, "</backingStore>")) && at < target;)
		end = at += strlen("</backingStore>");
	if (end && begin < target)
		memmove(begin, end, strlen(end) + 1);
}

/* `text` with the only place where it says `from` saying `to`. */
static char *changed(const char *text, const char *from, const char *to, struct err *err)
{
	const char *at = strstr(text, from);
	char *ret;

	if (!at || strstr(at + 1, from))
		return err_null(err, ERR_STALE, "its configuration says %s not once", from);
	if (asprintf(&ret, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from)) < 0)
		return err_null(err, ERR_MEMORY, "out of memory");
	drop_chain(ret + (at - text));
	return ret;
}

int virsh_rename(const char *uuid, const char *from, const char *to, struct err *err)
{
	const char *const dump[] = { "virsh", "-q", "dumpxml", uuid, "--inactive", "--security-info", NULL };
	static const char *const define[] = { "virsh", "-q", "define", "/dev/stdin", NULL };
	CLEANUP(free)
	char *old = file_attribute(from, err),
	     *new = old ? file_attribute(to, err) : NULL, *before = NULL, *after = NULL;

	if (!new || run(dump, NULL, &before, err) < 0)
		return -1;
	after = changed(before, old, new, err);
	return after ? run(define, after, NULL, err) : -1;
}
