/* Runs the simulation of the schedule for many seeds.
 *
 *     schedule_tool FIRST_SEED COUNT
 *
 * Prints how close the bounds were reached. At the first thing that does not hold it prints that
 * and its seed, and exits 1. An assert of the schedule's ends it behind a line with the seed.
 */
#include <signal.h>
#include <stdlib.h>

#include "schedule_sim.h"

static struct sim sim;
static unsigned long long current;

static void on_abort(int number)
{
    (void)number;
    printf("seed %llu: an assert\n", current);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "schedule_tool FIRST_SEED COUNT\n");
        return 2;
    }
    const unsigned long long first = strtoull(argv[1], NULL, 10);
    const unsigned long long count = strtoull(argv[2], NULL, 10);
    double behind = 0, ahead = 0, lane_ahead = 0, waited = 0;
    long long n_picks = 0, n_jobs = 0;
    signal(SIGABRT, on_abort);
    for (current = first; current < first + count; current++) {
        if (!sim_run(&sim, current)) {
            printf("seed %llu: %s\n", current, sim.what);
            return 1;
        }
        behind = fmax(behind, sim.behind_most);
        ahead = fmax(ahead, sim.ahead_most);
        lane_ahead = fmax(lane_ahead, sim.lane_ahead_most);
        waited = fmax(waited, (double)sim.waited_most / SCHEDULE_WAIT_MAX(sim.n_active_max));
        n_picks += sim.n_picks;
        n_jobs += sim.n_added;
    }
    printf("%llu seeds, %lld requests, %lld picks; at most %.2f passes behind one's part, "
           "%.2f ahead of another, %.2f of large steps, %.0f %% of the longest wait\n",
           count, n_jobs, n_picks, behind, ahead, lane_ahead, 100 * waited);
    return 0;
}
