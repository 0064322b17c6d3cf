/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_LEASH_H
#define DEDUPSCAN_LEASH_H

#include <sys/stat.h>

#include "scanner/index/spool.h"

/* What a reading process may take for one image, looked after by its parent.
 *
 * An image is hostile, and so may be the process that reads it.  Memory and system calls are the jail's; here it is
 * CPU time, files it has opened, and what it hands over.  The limits hang on what the files of the image hold, so
 * that a small file cannot cost much, and are far from what honest ones need: a slow machine, an emulator or a
 * sanitizer keeps to them, too.  Time is that of the processor, so nothing depends on who else wants it. */

/* CPU: 5 seconds, one more for so many bytes that the files hold, and one for so many bytes of image data that came of
 * it, which count up to RATIO times what the files hold: zlib makes no more of it. */
#define LEASH_CPU_BASE_S 5
#define LEASH_HELD_PER_S (8 * MIB)
#define LEASH_DATA_PER_S (256 * MIB)
#define LEASH_DATA_RATIO 1024

#define LEASH_OPENS 16384

/* Bytes of frames, and RATIO more for each byte held: zstd makes no more of it. */
#define LEASH_SPOOL_BASE (64 * MIB)
#define LEASH_SPOOL_RATIO 256

struct leash {
	pid_t pid;
	uint64_t cpu; /* ns that the process had used before */
	uint64_t held, delivered, spooled;
	uint64_t next_segment;
	unsigned nr_opens;
	bool over; /* a frame without segments is the last one */
};

/* A new image; `address` is where it is gone on with. */
void leash_begin(struct leash *l, pid_t pid, uint64_t address);

/* A file of the image, open at fd: itself, a part of it, a backing file. */
void leash_add_file(struct leash *l, int fd);

/* ERR_REFUSED when it has asked for too many files. */
int leash_take_open(struct leash *l, struct err *err);

/* A frame that spool_frame_check() found good: ERR_REFUSED when it is not the next one of an image of that span, or
 * one too many. The frame must be out of the process's reach. */
int leash_take_frame(struct leash *l, const uint8_t *frame, uint64_t span, struct err *err);

/* ns of CPU that the image may cost as things are. */
uint64_t leash_budget(const struct leash *l);

/* ERR_REFUSED when it has cost more. */
int leash_check(const struct leash *l, struct err *err);

/* ns of CPU that a process has used, 0 when nobody knows.  Tests point it elsewhere, and back to leash_clock_real. */
extern uint64_t (*leash_clock)(pid_t pid);
uint64_t leash_clock_real(pid_t pid);

#endif
