/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/replace.h"
__attribute__((weak)) int workshop_open(int d, const char *p, bool c, struct workshop **r, struct err *err) { (void)d; (void)p; (void)c; *r = NULL; return c ? err_set(err, ERR_UNSUPPORTED, "not yet") : 0; }
__attribute__((weak)) int workshop_recover(struct workshop *w, void (*t)(void *, const char *, const struct err *), void *x, struct recovery *r, struct err *e) { (void)w; (void)t; (void)x; (void)r; (void)e; return 0; }
__attribute__((weak)) int workshop_undo(struct workshop *w, const char *p, uint64_t *n, struct err *e) { (void)w; (void)p; (void)n; (void)e; return 0; }
__attribute__((weak)) int workshop_purge(struct workshop *w, uint64_t *n, struct err *e) { (void)w; (void)n; (void)e; return 0; }
__attribute__((weak)) void workshop_close(struct workshop *w) { (void)w; }
__attribute__((weak)) int replace_image(const struct replacing *r, struct spool_identity *i, struct err *err) { (void)r; (void)i; return err_set(err, ERR_UNSUPPORTED, "not yet"); }
