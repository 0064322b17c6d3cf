/* SPDX-License-Identifier: Apache-2.0 */
#include "scanner/worker_message.h"

#include "scanner/base/proc.h"

size_t worker_message_len(uint32_t kind)
{
	switch (kind) {
	case WORKER_FREE:
	case WORKER_FRAME:
	case WORKER_DONE:
	case WORKER_STOPPED:
	case WORKER_DIGESTS:
		return offsetof(struct worker_message, slot) + sizeof(uint32_t);
	case WORKER_REFUSED:
	case WORKER_FAILED:
		return offsetof(struct worker_message, err) + sizeof(struct err);
	default:
		return sizeof(struct worker_message);
	}
}

int worker_send(int sock, const struct worker_message *m, int fd, struct err *err)
{
	return proc_send(sock, m, worker_message_len(m->kind), fd, err);
}
