/* SPDX-License-Identifier: Apache-2.0 */
#include "scanner/leash.h"

#include <time.h>

#include "scanner/base/checked.h"
#include "scanner/image/image.h"
#include "scanner/index/checksum.h"

#define S_NS 1000000000ull

uint64_t (*leash_clock)(pid_t pid) = leash_clock_real;

uint64_t leash_clock_real(pid_t pid)
{
	struct timespec t;
	clockid_t clock;

	if (clock_getcpuclockid(pid, &clock) != 0 || clock_gettime(clock, &t) < 0)
		return 0;
	return (uint64_t)t.tv_sec * S_NS + (uint64_t)t.tv_nsec;
}

void leash_begin(struct leash *l, pid_t pid, uint64_t address)
{
	*l = (struct leash){ .pid = pid, .cpu = leash_clock(pid), .next_segment = div_up(address, SEGMENT_SIZE) };
}

/* Some file systems count no blocks. */
void leash_add_file(struct leash *l, int fd)
{
	struct stat st;
	uint64_t size;

	if (fstat(fd, &st) < 0)
		return;
	if (st.st_blocks)
		l->held += (uint64_t)st.st_blocks * 512;
	else if (image_file_size(fd, &size, NULL) == 0)
		l->held += size;
}

int leash_take_open(struct leash *l, struct err *err)
{
	if (l->nr_opens++ < LEASH_OPENS)
		return 0;
	return err_set(err, ERR_REFUSED, "it names more than %u files", LEASH_OPENS);
}

static uint64_t times(uint64_t v, uint64_t n)
{
	uint64_t ret;

	return mul_fits(v, n, &ret) ? ret : UINT64_MAX;
}

int leash_take_frame(struct leash *l, const uint8_t *frame, uint64_t span, struct err *err)
{
	const struct spool_frame *f = (const void *)frame;
	const struct spool_segment *s = (const void *)(frame + sizeof(*f));
	uint32_t nr = le32_get(f->nr_segments);
	uint64_t len = sizeof(*f) + le64_get(f->payload_len);

	if (le32_get(f->kind) != SPOOL_FRAME_DATA || l->over)
		return err_set(err, ERR_REFUSED, "the process that read it was stopped: it went on after its end");
	if (checksum32(frame + sizeof(*f), le64_get(f->payload_len), 0) != le32_get(f->checksum))
		return err_set(err, ERR_REFUSED,
			       "the process that read it was stopped: it handed over what is damaged");
	if (nr &&
	    (le64_get(s[0].segment) < l->next_segment || le64_get(s[nr - 1].segment) >= div_up(span, SEGMENT_SIZE)))
		return err_set(err, ERR_REFUSED,
			       "the process that read it was stopped: it told of places that cannot be");
	l->spooled += len;
	if (l->spooled / LEASH_SPOOL_RATIO > l->held + LEASH_SPOOL_BASE / LEASH_SPOOL_RATIO)
		return err_set(err, ERR_REFUSED,
			       "more came of it than can be in %llu MiB of file: it was stopped as hostile or broken",
			       (unsigned long long)(l->held / MIB));
	for (uint32_t i = 0; i < nr; i++)
		l->delivered += (uint64_t)le16_get(s[i].stored) * BLOCK_SIZE;
	if (nr)
		l->next_segment = le64_get(s[nr - 1].segment) + 1;
	l->over = nr == 0;
	return 0;
}

uint64_t leash_budget(const struct leash *l)
{
	uint64_t data = min_u64(l->delivered, times(l->held, LEASH_DATA_RATIO));
	uint64_t s = LEASH_CPU_BASE_S + l->held / LEASH_HELD_PER_S + data / LEASH_DATA_PER_S;

	return times(s, S_NS);
}

int leash_check(const struct leash *l, struct err *err)
{
	uint64_t now = leash_clock(l->pid), used = now > l->cpu ? now - l->cpu : 0;

	if (used <= leash_budget(l))
		return 0;
	return err_set(err, ERR_REFUSED,
		       "reading it took %llu s of CPU for %llu MiB of file: it was stopped as hostile or broken",
		       (unsigned long long)(used / S_NS), (unsigned long long)(l->held / MIB));
}
