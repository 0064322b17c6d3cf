/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_COMMANDS_H
#define DEDUPSCAN_COMMANDS_H

/* The commands.  argv[0] is "dedupscan", options and words follow; each returns an exit status (terminal.h). */

int run_scan(int argc, char **argv);
int run_report(int argc, char **argv);
int run_compact(int argc, char **argv);
int run_recover(int argc, char **argv);
int run_info(int argc, char **argv);
int run_verify(int argc, char **argv);
int run_verify_pool(int argc, char **argv); /* verify --pool */
extern const char verify_help[];	      /* of both */
int run_clone(int argc, char **argv);
int run_snapshot(int argc, char **argv);
int run_rollback(int argc, char **argv);
int run_list(int argc, char **argv);
int run_diff(int argc, char **argv);
int run_delete(int argc, char **argv);
int run_prune(int argc, char **argv);
int run_restore(int argc, char **argv);
int run_expand(int argc, char **argv);
int run_repoint(int argc, char **argv);
int run_pool(int argc, char **argv);

#endif
