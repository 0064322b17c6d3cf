/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/tree_help.h"

#include "compactor/virsh.h"

/* A virsh of the test's own, a shell script, says what is told here and notes its words and what it is given. */

#define UUID "11111111-2222-3333-4444-555555555555"
#define LONG_PATH "/srv/a, b/it's <one> & \"two\".qcow2"

static void install(const char *script)
{
	char text[4096];
	int len = snprintf(text, sizeof(text), "#!/bin/sh\nfor w; do echo \"$w\"; done >>%s\n%s\n", in_tree("words"),
			   script);
	static char path[PATH_MAX + 32];

	tree_write("virsh", text, (size_t)len);
	assert_int_equal(chmod(in_tree("virsh"), 0755), 0);
	snprintf(path, sizeof(path), "%s:/usr/bin:/bin", tree);
	setenv("PATH", path, 1);
}

static void assert_has(const char *name, const char *what)
{
	char text[8192];
	int fd = open(in_tree(name), O_RDONLY);
	ssize_t len = read(fd, text, sizeof(text) - 1);

	assert_true(fd >= 0 && len >= 0);
	close(fd);
	text[len] = '\0';
	if (!strstr(text, what))
		fail_msg("'%s' is not in: %s", what, text);
}

static void without_a_virsh_it_says_what_to_do(void **state)
{
	CLEANUP(virsh_disks_release) struct virsh_disks l = { .items = VEC_INIT };
	struct err err = ERR_INIT;

	(void)state;
	setenv("PATH", tree, 1);
	assert_int_equal(virsh_disks(true, &l, &err), -1);
	assert_int_equal(err.kind, ERR_UNSUPPORTED);
	assert_non_null(strstr(err.text, "libvirt-clients"));
}

static void what_it_says_is_told(void **state)
{
	CLEANUP(virsh_disks_release) struct virsh_disks l = { .items = VEC_INIT };
	struct err err = ERR_INIT;

	(void)state;
	install("echo 'error: tried' >&2; echo 'error: that cannot be' >&2; echo more >&2; exit 1");
	assert_int_equal(virsh_disks(true, &l, &err), -1);
	assert_int_equal(err.kind, ERR_REFUSED);
	assert_string_equal(err.text, "virsh list: that cannot be");
}

static void disks_that_are_files_are_found(void **state)
{
	CLEANUP(virsh_disks_release) struct virsh_disks l = { .items = VEC_INIT };
	struct err err = ERR_INIT;

	(void)state;
	install("echo a warning >&2\n"
		"case $2 in list) echo " UUID ";;\n"
		"*) cat <<'END'\n"
		" file      disk     vda      /srv/a, b/it's <one> & \"two\".qcow2\n"
		" block     disk     vdb      /dev/vg/lv\n"
		" network   disk     vdc      rbd/image\n"
		" file      cdrom    sda      -\n"
		" file   disk   vdd   /srv/plain.qcow2\n"
		"END\n"
		"esac");
	if (virsh_disks(true, &l, &err) < 0)
		fail_msg("%s", err.text);
	assert_int_equal(l.items.nr, 2);
	assert_string_equal(l.items.items[0].uuid, UUID);
	assert_string_equal(l.items.items[0].target, "vda");
	assert_string_equal(l.items.items[0].source, LONG_PATH);
	assert_string_equal(l.items.items[1].source, "/srv/plain.qcow2");
}

static void a_snapshot_leaves_other_disks_out(void **state)
{
	const struct virsh_aside a = { "vda", LONG_PATH };
	struct err err = ERR_INIT;

	(void)state;
	install("test $2 = domblklist && printf ' vda /x\\n vdb /y\\n sda -\\n'; exit 0");
	if (virsh_snapshot(UUID, &a, 1, true, &err) < 0)
		fail_msg("%s", err.text);
	assert_has("words", "--quiesce\n--diskspec\nvda,snapshot=external,file=/srv/a,, b/it's <one> & \"two\".qcow2\n"
			    "--diskspec\nvdb,snapshot=no\n--diskspec\nsda,snapshot=no\n");
}

static void a_name_in_a_configuration_is_changed_with_the_chain_below(void **state)
{
	struct err err = ERR_INIT;
	char script[2000];

	(void)state;
	snprintf(script, sizeof(script),
		 "if [ $2 = dumpxml ]; then cat <<'END'\n"
		 "<disk><source file='/srv/a, b/it&apos;s &lt;one&gt; &amp; &quot;two&quot;.qcow2' index='1'/>\n"
		 "<backingStore type='file'><source file='/srv/x'/><backingStore/></backingStore><target "
		 "dev='vda'/></disk>\n"
		 "<disk><source file='/srv/y'/><backingStore type='file'><source file='/srv/z'/></backingStore><target "
		 "dev='vdb'/></disk>\n"
		 "END\nelse cat $4 >%s; fi",
		 in_tree("defined"));
	install(script);
	if (virsh_rename(UUID, LONG_PATH, "/srv/x", &err) < 0)
		fail_msg("%s", err.text);
	assert_has("defined",
		   "<disk><source file='/srv/x' index='1'/>\n<target dev='vda'/></disk>\n"
		   "<disk><source file='/srv/y'/><backingStore type='file'><source file='/srv/z'/></backingStore>");
	assert_int_equal(virsh_rename(UUID, "/srv/w", "/srv/x", &err), -1);
	assert_int_equal(err.kind, ERR_STALE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		tree_test(without_a_virsh_it_says_what_to_do),
		tree_test(what_it_says_is_told),
		tree_test(disks_that_are_files_are_found),
		tree_test(a_snapshot_leaves_other_disks_out),
		tree_test(a_name_in_a_configuration_is_changed_with_the_chain_below),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
