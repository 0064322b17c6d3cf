/* SPDX-License-Identifier: Apache-2.0 */
#include "scanner/base/late.h"

#include <dlfcn.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* What was preloaded goes first, as if the library were linked. */
static bool look_up(void *handle, const struct late_call *c)
{
	for (; c->name; c++) {
		void *address = dlsym(RTLD_DEFAULT, c->name);

		if (!address)
			address = dlsym(handle, c->name);
		if (!address)
			return false;
		memcpy(c->ret, &address, sizeof(address));
	}
	return true;
}

static enum late_state load(struct late *l)
{
	void *handle = dlopen(l->soname, RTLD_NOW | RTLD_LOCAL);

	if (handle && look_up(handle, l->calls))
		return LATE_LOADED;
	snprintf(l->fault, sizeof(l->fault), "%s", dlerror());
	return LATE_FAILED;
}

/* What was tried is told without the lock: who forks meanwhile leaves it to the child as it is. */
int late_load(struct late *l, struct err *err)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

	if (atomic_load(&l->state) == LATE_NOT_TRIED) {
		pthread_mutex_lock(&lock);
		if (atomic_load(&l->state) == LATE_NOT_TRIED)
			atomic_store(&l->state, load(l));
		pthread_mutex_unlock(&lock);
	}
	if (atomic_load(&l->state) == LATE_LOADED)
		return 0;
	return err_set(err, ERR_IO, "%s cannot be used: %s; Debian's package is %s", l->what, l->fault, l->package);
}
