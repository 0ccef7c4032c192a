/* Threads that share out numbered tasks. One thread uses a pool; it works on the tasks like the
 * others. Which thread runs a task is chance, so a task's result must not depend on it. */
#pragma once
#include "../../protocol/base.h"

struct pool;

/* `thread` is 0 .. n_threads - 1: the place of a thread's own scratch. */
typedef void task_fn(void *context, int task, int thread);

bool pool_open(struct pool **p, int n_threads, struct err *e);
void pool_close(struct pool *p);

/* Runs tasks 0 .. n_tasks - 1 and returns when all are done. */
void pool_run(struct pool *p, int n_tasks, task_fn *run, void *context);
