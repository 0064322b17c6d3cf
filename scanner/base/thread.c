/* SPDX-License-Identifier: Apache-2.0 */
#include "scanner/base/thread.h"

#include <signal.h>

#define SMALL_STACK ((size_t)256 << 10)

static int start(pthread_t *ret, const pthread_attr_t *attr, void *(*run)(void *), void *arg)
{
	sigset_t all, old;
	int rc;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	rc = pthread_create(ret, attr, run, arg);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return rc;
}

int thread_start(pthread_t *ret, void *(*run)(void *), void *arg)
{
	return start(ret, NULL, run, arg);
}

int thread_start_small(pthread_t *ret, void *(*run)(void *), void *arg)
{
	pthread_attr_t attr;
	int rc = pthread_attr_init(&attr);

	if (rc)
		return rc;
	rc = pthread_attr_setstacksize(&attr, SMALL_STACK);
	if (rc == 0)
		rc = pthread_attr_setguardsize(&attr, 0);
	if (rc == 0)
		rc = start(ret, &attr, run, arg);
	pthread_attr_destroy(&attr);
	return rc;
}
