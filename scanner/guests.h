/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_GUESTS_H
#define DEDUPSCAN_GUESTS_H

#include <stdbool.h>
#include <stdint.h>

#include "scanner/base/schedule.h"
#include "scanner/base/vec.h"
#include "scanner/inspect.h"

/* What lies inside an image: operating systems, partitions, file systems, volumes, as the program dedupscan-guest
 * finds out, which is there when the build found libguestfs (scanner/guest/guest.c).
 *
 * It has QEMU open the image, and QEMU follows every name in it.  So it is started only for an image whose files an
 * inspection has opened already, by the rules of scanner/roots.h, and whose formats leave nothing to guess.  Between
 * the two looks somebody who may write the image can still change it.
 *
 * Texts are what the guest says; numbers that are not known are GUEST_UNKNOWN. */

#define GUEST_UNKNOWN UINT64_MAX
#define GUEST_KVM_SECONDS 40 /* in which a machine with KVM must be up, else it is done without */
#define GUEST_SECONDS 600    /* for one image, all in all */

struct guest_system {
	const char *root, *type, *distro, *product, *version, *arch, *hostname;
};

struct guest_device {
	const char *name, *table; /* "gpt", "msdos"; "" = none */
	uint64_t size;
};

struct guest_partition {
	const char *device;
	uint64_t number, start, size;
	const char *type, *name; /* "0FC63DAF-...", "0x83" */
};

struct guest_file_system {
	const char *device, *type, *label, *uuid;
	uint64_t size, used, available;
};

struct guest_volume {
	const char *name;
	uint64_t size;
};

struct guest {
	char *text; /* all of the strings */
	VEC(struct guest_system) systems;
	VEC(struct guest_device) devices;
	VEC(struct guest_partition) partitions;
	VEC(struct guest_file_system) file_systems;
	VEC(struct guest_volume) volumes;
};

/* Where dedupscan-guest is: beside this program, or where it is installed.  False when there is none. */
bool guest_program(char ret[PATH_MAX]);

/* Looks inside the image that was inspected.  Refuses (ERR_REFUSED, ERR_UNSUPPORTED) what must not be given to QEMU.
 * *ret is to be released after a failure too. */
int guest_look(const struct inspection *i, struct stopper *stopper, struct guest *ret, struct err *err);

void guest_release(struct guest *g);

/* True when QEMU may open the image; its name for the format goes to *ret_format. */
bool guest_may_look(const struct inspection *i, const char **ret_format, struct err *err);

/* Takes the output of dedupscan-guest apart; `text` belongs to *ret then, on failure too. */
int guest_parse(char *text, size_t len, struct guest *ret, struct err *err);

#endif
