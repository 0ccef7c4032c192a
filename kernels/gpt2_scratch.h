/* The activations of a lane's pass, on the device: one buffer each, allocated at load and written
 * over by every pass. Rows of tokens, `rows_max` at most; where it says so, rows of logits.
 */
#pragma once
#include "gpt2.h"

struct gpt2_scratch {
    int64_t *tokens;      /* (rows) for the hook alone */
    float *residual;      /* (rows, D) */
    float *side;          /* (rows, D) what is about to be added to the residual stream, or a
                         layernorm's own copy of it */
    float *normal;        /* (rows, D) a layernorm's output */
    float *qkv;           /* (rows, 3D) */
    float *z;             /* (rows, D); in a layernorm, which comes before it is written: the rows
                             before gain and bias, where someone hooks them */
    float *inner;         /* (rows, F) before the activation function, where someone hooks it; else
                             the last block's queries, narrowed to the rows of the logits */
    float *act;           /* (rows, F) after it; in a layernorm the rows' scales */
    float *last;          /* (logits, D) */
    float *logits;        /* (logits, V) */
    int64_t *tokens_host; /* [rows] on the host, on their way to `tokens` */
};
