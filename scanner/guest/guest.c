/* SPDX-License-Identifier: Apache-2.0 */

/* dedupscan-guest FORMAT PATH kvm|tcg: what lies inside a disk image, by libguestfs.
 *
 * A program of its own, so that nothing else depends on libguestfs.  The file systems of the guest are read in a
 * small virtual machine without a network, started by libguestfs; the image is opened read-only by QEMU there, which
 * follows the names in it: whoever calls this has looked at them (scanner/guests.c).
 *
 * Standard output is a stream of strings, each ended by a zero byte: a word that says what follows, then as many
 * strings as scanner/guests.c says belong to that word.  The first is "up", when the machine is; the last is "end",
 * or "error" and why. */

#include <guestfs.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

struct number {
	char s[24];
};

static struct number number(int64_t v)
{
	struct number n = { "" };

	if (v >= 0)
		snprintf(n.s, sizeof(n.s), "%" PRId64, v);
	return n;
}

/* Strings up to a NULL; each is freed afterwards when `drop`. */
static void put(const char *word, ...)
{
	va_list ap;

	va_start(ap, word);
	for (const char *s = word; s; s = va_arg(ap, const char *))
		fwrite(s, 1, strlen(s) + 1, stdout);
	va_end(ap);
}

#define OR_EMPTY(s) ((s) ? (s) : "")

static void free_list(char **list)
{
	for (char **p = list; p && *p; p++)
		free(*p);
	free(list);
}

static int fail(guestfs_h *g, const char *what)
{
	char text[400];

	snprintf(text, sizeof(text), "%s: %s", what, g && guestfs_last_error(g) ? guestfs_last_error(g) : "no memory");
	put("error", text, NULL);
	fflush(stdout);
	if (g)
		guestfs_close(g);
	return 1;
}

/* ---- what there is ---- */

static void tell_partition(guestfs_h *g, const char *device, const struct guestfs_partition *p)
{
	char *gpt = guestfs_part_get_gpt_type(g, device, p->part_num);
	char *name = guestfs_part_get_name(g, device, p->part_num);
	char mbr[16] = "";

	if (!gpt)
		snprintf(mbr, sizeof(mbr), "0x%02x", (unsigned)guestfs_part_get_mbr_id(g, device, p->part_num));
	put("partition", device, number(p->part_num).s, number((int64_t)p->part_start).s,
	    number((int64_t)p->part_size).s, gpt ? gpt : mbr, OR_EMPTY(name), NULL);
	free(gpt);
	free(name);
}

static void tell_device(guestfs_h *g, const char *device)
{
	char *table = guestfs_part_get_parttype(g, device);
	struct guestfs_partition_list *list = table ? guestfs_part_list(g, device) : NULL;

	put("device", device, OR_EMPTY(table), number(guestfs_blockdev_getsize64(g, device)).s, NULL);
	for (uint32_t i = 0; list && i < list->len; i++)
		tell_partition(g, device, &list->val[i]);
	if (list)
		guestfs_free_partition_list(list);
	free(table);
}

static bool has_files(const char *type)
{
	return *type && strcmp(type, "swap") != 0 && strcmp(type, "unknown") != 0 && strncmp(type, "crypto_", 7) != 0;
}

static void tell_file_system(guestfs_h *g, const char *device, const char *type)
{
	char *label = guestfs_vfs_label(g, device), *uuid = guestfs_vfs_uuid(g, device);
	struct guestfs_statvfs *st = NULL;
	int64_t used = -1, left = -1;

	if (has_files(type) && guestfs_mount_ro(g, device, "/") == 0) {
		st = guestfs_statvfs(g, "/");
		guestfs_umount_all(g);
	}
	if (st) {
		used = (st->blocks - st->bfree) * st->frsize;
		left = st->bavail * st->frsize;
		guestfs_free_statvfs(st);
	}
	/* of a subvolume there is no device */
	put("filesystem", device, type, OR_EMPTY(label), OR_EMPTY(uuid),
	    number(guestfs_blockdev_getsize64(g, device)).s, number(used).s, number(left).s, NULL);
	free(label);
	free(uuid);
}

static void tell_system(guestfs_h *g, const char *root)
{
	char *type = guestfs_inspect_get_type(g, root), *distro = guestfs_inspect_get_distro(g, root);
	char *product = guestfs_inspect_get_product_name(g, root), *arch = guestfs_inspect_get_arch(g, root);
	char *host = guestfs_inspect_get_hostname(g, root);
	char version[32];

	snprintf(version, sizeof(version), "%d.%d", guestfs_inspect_get_major_version(g, root),
		 guestfs_inspect_get_minor_version(g, root));
	put("system", root, OR_EMPTY(type), OR_EMPTY(distro), OR_EMPTY(product), version, OR_EMPTY(arch),
	    OR_EMPTY(host), NULL);
	free(type);
	free(distro);
	free(product);
	free(arch);
	free(host);
}

static void tell_everything(guestfs_h *g)
{
	char **devices = guestfs_list_devices(g), **volumes = guestfs_lvs(g), **systems = guestfs_inspect_os(g);
	char **file_systems = guestfs_list_filesystems(g); /* device, type, device, ... */

	for (char **p = systems; p && *p; p++)
		tell_system(g, *p);
	guestfs_umount_all(g);
	for (char **p = devices; p && *p; p++)
		tell_device(g, *p);
	for (char **p = volumes; p && *p; p++)
		put("volume", *p, number(guestfs_blockdev_getsize64(g, *p)).s, NULL);
	for (char **p = file_systems; p && p[0] && p[1]; p += 2)
		tell_file_system(g, p[0], p[1]);
	free_list(devices);
	free_list(volumes);
	free_list(systems);
	free_list(file_systems);
}

/* ---- the machine ---- */

static int set_up(guestfs_h *g, const char *format, const char *path, bool tcg)
{
	char *settings[] = { (char *)(uintptr_t) "force_tcg", NULL };

	guestfs_set_error_handler(g, NULL, NULL);
	if (guestfs_set_backend(g, "direct") < 0 || guestfs_set_network(g, 0) < 0 || guestfs_set_autosync(g, 0) < 0)
		return -1;
	if (tcg && guestfs_set_backend_settings(g, settings) < 0)
		return -1;
	return guestfs_add_drive_opts(g, path, GUESTFS_ADD_DRIVE_OPTS_READONLY, 1, GUESTFS_ADD_DRIVE_OPTS_FORMAT,
				      format, -1);
}

/* To all that was started too: QEMU's end makes the call that waits for it fail, so that libguestfs can clean up. */
static void on_stop(int sig)
{
	static volatile sig_atomic_t told;

	if (!told) {
		told = 1;
		kill(0, sig);
	}
}

int main(int argc, char **argv)
{
	struct sigaction stop = { .sa_handler = on_stop };
	guestfs_h *g;

	if (argc != 4) {
		fprintf(stderr, "usage: dedupscan-guest FORMAT PATH kvm|tcg\n");
		return 2;
	}
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	sigaction(SIGTERM, &stop, NULL);
	signal(SIGPIPE, SIG_IGN); /* there is cleaning up to do when nobody listens any more */
	g = guestfs_create();
	if (!g)
		return fail(NULL, "cannot begin");
	if (set_up(g, argv[1], argv[2], strcmp(argv[3], "tcg") == 0) < 0)
		return fail(g, "cannot add the image");
	if (guestfs_launch(g) < 0)
		return fail(g, "cannot start a virtual machine");
	put("up", NULL);
	fflush(stdout);
	tell_everything(g);
	if (guestfs_ping_daemon(g) < 0)
		return fail(g, "the virtual machine ended too early");
	put("end", NULL);
	guestfs_shutdown(g);
	guestfs_close(g);
	return fflush(stdout) != 0;
}
