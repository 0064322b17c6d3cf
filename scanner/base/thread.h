/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_THREAD_H
#define DEDUPSCAN_THREAD_H

#include <pthread.h>

/* As pthread_create(3), with all signals blocked: they are the main thread's business. */
int thread_start(pthread_t *ret, void *(*run)(void *), void *arg);

/* The same for one that makes a system call and is gone: its stack is small, and nothing guards it. */
int thread_start_small(pthread_t *ret, void *(*run)(void *), void *arg);

#endif
