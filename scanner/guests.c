/* SPDX-License-Identifier: Apache-2.0 */
#include "scanner/guests.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "scanner/base/checked.h"
#include "scanner/base/cleanup.h"

/* The machine is tried with KVM first.  Where that does not come up, or hangs (nested virtualisation does), it is
 * ended and there is another try without, for this image and all that follow. */

#define OUTPUT_MAX MIB
#define POLL_MS 100
#define GRACE_MS 5000 /* to clean up when it is told to end */

/* ---- may it be looked at ---- */

/* Formats whose names QEMU has, and that it reads as we do. */
static const char *qemu_format(const char *name)
{
	static const char *const names[][2] = { { "raw", "raw" }, { "qcow2", "qcow2" }, { "vmdk", "vmdk" },
						{ "vdi", "vdi" }, { "vhd", "vpc" },	{ "vhdx", "vhdx" } };

	for (size_t n = 0; n < ARRAY_SIZE(names); n++)
		if (strcmp(name, names[n][0]) == 0)
			return names[n][1];
	return NULL;
}

bool guest_may_look(const struct inspection *i, const char **ret_format, struct err *err)
{
	*ret_format = qemu_format(i->format);
	if (!i->opened || inspect_failed(i))
		return err_set(err, ERR_REFUSED, "the image itself cannot be read"), false;
	if (!*ret_format)
		return err_set(err, ERR_UNSUPPORTED, "guests in %s images are not looked at", i->format), false;
	if (i->encrypted)
		return err_set(err, ERR_UNSUPPORTED, "the image is encrypted"), false;
	for (uint32_t n = 0; n < i->nr_problems; n++)
		if (i->problems[n].kind == INSPECT_CHAIN)
			return err_set(err, ERR_REFUSED, "%s", i->problems[n].text), false;
	for (uint32_t n = 0; n < i->nr_members; n++) {
		if (!i->members[n].format_stated)
			return err_set(err, ERR_REFUSED,
				       "the format of the backing file '%s' is not stated, and QEMU would guess it; "
				       "qemu-img rebase -u -b FILE -F FORMAT states it",
				       i->members[n].path),
			       false;
		if (!qemu_format(i->members[n].format))
			return err_set(err, ERR_UNSUPPORTED, "backing files of format %s are not looked at",
				       i->members[n].format),
			       false;
	}
	return true;
}

/* ---- what it says ---- */

/* The strings after a word; NULL when they are not all there. */
struct reader {
	char *at, *end;
	bool bad;
};

static const char *next_text(struct reader *r)
{
	char *s = r->at, *zero = r->at < r->end ? memchr(s, '\0', (size_t)(r->end - s)) : NULL;

	if (!zero) {
		r->bad = true;
		return "";
	}
	r->at = zero + 1;
	return s;
}

static uint64_t next_number(struct reader *r)
{
	const char *s = next_text(r);
	char *end;
	unsigned long long v;

	if (!*s)
		return GUEST_UNKNOWN;
	errno = 0;
	v = strtoull(s, &end, 10);
	if (*s < '0' || *s > '9' || *end || errno)
		r->bad = true;
	return v;
}

static int take_record(struct reader *r, const char *word, struct guest *g)
{
	/* Members are read in the order in which they are written here: initializers would not promise that. */
	if (strcmp(word, "system") == 0) {
		struct guest_system s;

		s.root = next_text(r);
		s.type = next_text(r);
		s.distro = next_text(r);
		s.product = next_text(r);
		s.version = next_text(r);
		s.arch = next_text(r);
		s.hostname = next_text(r);
		return vec_push(&g->systems, s);
	}
	if (strcmp(word, "device") == 0) {
		struct guest_device d;

		d.name = next_text(r);
		d.table = next_text(r);
		d.size = next_number(r);
		return vec_push(&g->devices, d);
	}
	if (strcmp(word, "partition") == 0) {
		struct guest_partition p;

		p.device = next_text(r);
		p.number = next_number(r);
		p.start = next_number(r);
		p.size = next_number(r);
		p.type = next_text(r);
		p.name = next_text(r);
		return vec_push(&g->partitions, p);
	}
	if (strcmp(word, "filesystem") == 0) {
		struct guest_file_system f;

		f.device = next_text(r);
		f.type = next_text(r);
		f.label = next_text(r);
		f.uuid = next_text(r);
		f.size = next_number(r);
		f.used = next_number(r);
		f.available = next_number(r);
		return vec_push(&g->file_systems, f);
	}
	if (strcmp(word, "volume") == 0) {
		struct guest_volume v;

		v.name = next_text(r);
		v.size = next_number(r);
		return vec_push(&g->volumes, v);
	}
	r->bad = strcmp(word, "up") != 0;
	return 0;
}

int guest_parse(char *text, size_t len, struct guest *ret, struct err *err)
{
	struct reader r = { .at = text, .end = text + len };

	*ret = (struct guest){ .text = text };
	while (!r.bad) {
		const char *word = next_text(&r);

		if (strcmp(word, "end") == 0 && r.at == r.end)
			return 0;
		if (strcmp(word, "error") == 0)
			return err_set(err, ERR_IO, "%.400s", next_text(&r));
		if (take_record(&r, word, ret) < 0)
			return err_set(err, ERR_MEMORY, "no memory for what is in a guest");
	}
	return err_set(err, ERR_IO, "dedupscan-guest did not say all");
}

void guest_release(struct guest *g)
{
	free(g->text);
	vec_release(&g->systems);
	vec_release(&g->devices);
	vec_release(&g->partitions);
	vec_release(&g->file_systems);
	vec_release(&g->volumes);
	g->text = NULL;
}

/* ---- the program ---- */

bool guest_program(char ret[PATH_MAX])
{
	static const char *const places[] = { "dedupscan-guest", "../libexec/dedupscan/dedupscan-guest" };
	char self[PATH_MAX];
	ssize_t len = readlink("/proc/self/exe", self, sizeof(self) - 1);
	char *slash;

	self[len > 0 ? len : 0] = '\0';
	slash = strrchr(self, '/');
	for (size_t n = 0; slash && n < ARRAY_SIZE(places); n++) {
		snprintf(ret, PATH_MAX, "%.*s/%s", (int)(slash - self), self, places[n]);
		if (access(ret, X_OK) == 0)
			return true;
	}
	return false;
}

struct run {
	pid_t pid;
	int fd; /* its output */
	char *text;
	size_t len, room;
	uint64_t begun;
	bool up;
};

static uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_BOOTTIME, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void become(const char *program, const char *format, const char *path, bool tcg, int out)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	setsid(); /* so that all that it starts can be ended with it */
	signal(SIGINT, SIG_DFL);
	signal(SIGPIPE, SIG_DFL);
	if (null >= 0 && dup2(null, 0) >= 0 && dup2(out, 1) >= 0 && dup2(null, 2) >= 0)
		execl(program, "dedupscan-guest", format, path, tcg ? "tcg" : "kvm", NULL);
	_exit(127);
}

static int start(struct run *r, const char *program, const char *format, const char *path, bool tcg, struct err *err)
{
	int ends[2];

	if (pipe2(ends, O_CLOEXEC) < 0)
		return err_errno(err, "cannot make a pipe");
	*r = (struct run){ .fd = ends[0], .begun = now_ms() };
	r->pid = fork();
	if (r->pid == 0)
		become(program, format, path, tcg, ends[1]);
	close(ends[1]);
	if (r->pid > 0)
		return 0;
	close(ends[0]);
	return err_errno(err, "cannot start dedupscan-guest");
}

/* Ends it and all that it started; gently first, for it has files to remove. */
static int finish(struct run *r)
{
	int status = 0;
	uint64_t told = now_ms();
	pid_t pid;

	kill(-r->pid, SIGTERM);
	while ((pid = waitpid(r->pid, &status, WNOHANG)) == 0 && now_ms() - told < GRACE_MS)
		nanosleep(&(struct timespec){ .tv_nsec = 20000000 }, NULL);
	kill(-r->pid, SIGKILL);
	while (pid == 0 && waitpid(r->pid, &status, 0) < 0 && errno == EINTR)
		;
	close(r->fd);
	return status;
}

/* Some more output: 1 = there was some, 0 = it ended, -1 = failed. */
static int read_more(struct run *r, struct err *err)
{
	ssize_t n;

	if (r->len == r->room) {
		char *more = r->room < OUTPUT_MAX ? realloc(r->text, r->room + 64 * KIB) : NULL;

		if (!more)
			return err_set(err, ERR_MEMORY, "dedupscan-guest says too much");
		r->text = more;
		r->room += 64 * KIB;
	}
	n = read(r->fd, r->text + r->len, r->room - r->len);
	if (n < 0)
		return err_errno(err, "cannot read from dedupscan-guest");
	r->len += (size_t)n;
	r->up = r->up || (r->len >= 3 && memcmp(r->text, "up", 3) == 0);
	return n > 0;
}

/* Reads all that it says.  With *ret_slow the machine did not come up in time. */
static int listen_to(struct run *r, bool tcg, struct stopper *stopper, bool *ret_slow, struct err *err)
{
	struct pollfd p = { .fd = r->fd, .events = POLLIN };
	int more = 1;

	while (more > 0) {
		uint64_t seconds = (now_ms() - r->begun) / 1000;

		if (stopper && stopper_says(stopper))
			return err_set(err, ERR_CANCELED, "stopped");
		*ret_slow = !tcg && !r->up && seconds >= GUEST_KVM_SECONDS;
		if (*ret_slow || seconds >= GUEST_SECONDS)
			return err_set(err, ERR_IO, "%s after %llu seconds",
				       r->up ? "the look inside was not over" : "the virtual machine was not up",
				       (unsigned long long)seconds);
		if (poll(&p, 1, POLL_MS) > 0)
			more = read_more(r, err);
	}
	return more;
}

/* One try; *ret_again: another without KVM may do better. */
static int attempt(struct run *r, const char *program, const char *format, const char *path, bool tcg,
		   struct stopper *stopper, bool *ret_again, struct err *err)
{
	bool slow = false;
	int rc, status;

	if (start(r, program, format, path, tcg, err) < 0)
		return -1;
	rc = listen_to(r, tcg, stopper, &slow, err);
	status = finish(r);
	*ret_again = !tcg && !r->up && (rc == 0 || slow);
	if (rc == 0 && r->len == 0)
		return err_set(err, ERR_IO, "dedupscan-guest ended with status %d and said nothing",
			       WIFEXITED(status) ? WEXITSTATUS(status) : -1);
	return rc;
}

static bool kvm_is_there(void)
{
	const char *settings = getenv("LIBGUESTFS_BACKEND_SETTINGS");

	return access("/dev/kvm", R_OK | W_OK) == 0 && !(settings && strstr(settings, "force_tcg"));
}

int guest_look(const struct inspection *i, struct stopper *stopper, struct guest *ret, struct err *err)
{
	static bool without_kvm;
	char program[PATH_MAX];
	struct run r = { .text = NULL };
	const char *format;
	bool again = false;
	int rc;

	*ret = (struct guest){ .text = NULL };
	if (!guest_may_look(i, &format, err))
		return -1;
	if (!guest_program(program))
		return err_set(err, ERR_UNSUPPORTED,
			       "dedupscan-guest is not there: this dedupscan was built without libguestfs");
	without_kvm = without_kvm || !kvm_is_there();
	rc = attempt(&r, program, format, i->path, without_kvm, stopper, &again, err);
	if (again) {
		free(r.text);
		rc = attempt(&r, program, format, i->path, true, stopper, &again, err);
		without_kvm = r.up;
	}
	if (rc == 0)
		return guest_parse(r.text, r.len, ret, err);
	free(r.text);
	return -1;
}
