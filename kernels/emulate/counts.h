/* What the host has asked of the emulated device since the process began: for tests of an engine,
 * in C. */
#pragma once
#ifdef __cplusplus
extern "C" {
#endif

struct emulate_counts {
    int launches, graphs;   /* the latter of many kernels at once */
    int uploads, downloads; /* copies between the host and the device */
    int waits; /* of the host: at a stream, at an event, in a copy from or to memory that is not
                  pinned */
    int left;  /* given to streams, and not run yet */
};
struct emulate_counts emulate_counted(void);

#ifdef __cplusplus
}
#endif
