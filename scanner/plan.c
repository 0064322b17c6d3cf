/* SPDX-License-Identifier: Apache-2.0 */
#include "scanner/plan.h"

#include <stdlib.h>

const char *const plan_method_names[PLAN_NR_METHODS] = {
	[PLAN_REFLINK] = "reflink", [PLAN_HOLES] = "holes", [PLAN_RELAYOUT] = "relayout", [PLAN_REBUILD] = "rebuild",
	[PLAN_POOL] = "pool",
};

const char *const plan_state_names[PLAN_NR_STATES] = {
	[PLAN_PENDING] = "pending", [PLAN_DONE] = "done", [PLAN_PARTLY] = "partly", [PLAN_SKIPPED] = "skipped",
	[PLAN_FAILED] = "failed",
};

void plan_release(struct plan *p)
{
	for (size_t i = 0; i < p->nr_images; i++) {
		free(p->images[i].path);
		free(p->images[i].format);
		free(p->images[i].why_not);
	}
	for (size_t i = 0; i < p->nr_steps; i++) {
		free(p->steps[i].why);
		free(p->steps[i].note);
	}
	for (size_t i = 0; i < p->nr_file_systems; i++) {
		free(p->file_systems[i].path);
		free(p->file_systems[i].type);
		free(p->file_systems[i].why_not);
	}
	free(p->images);
	free(p->steps);
	free(p->file_systems);
	*p = (struct plan){ 0 };
}
