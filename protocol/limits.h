/* Every limit with its reason. A request past one is refused (413 limit) before anything of its
 * size is allocated. Those that a server may want to lower or raise are options (--help).
 */
#pragma once

enum {
    /* The body. */
    BODY_MB = 16,                  /* a request of 20,000 nodes is about 2 MB; the rest is room for
                                      tensors that travel with it */
    BODY_MB_MAX = 1024,            /* as much as an operator may allow: an autoencoder of GPT-2's
                                      residual stream has 151 MB */
    BODY_BYTES_MAX = BODY_MB_MAX << 20,
    BODIES_MB = 512,               /* all bodies at once: 32 of the largest, and where they may be
                                      larger at least two; more are told to come back */
    BODY_COPIES = 3,               /* while it is planned, a body takes so many times its size
                                      beside itself: a JSON text as the library has it, as bytes,
                                      and small ones as the plan's constants */
    DEPTH_MAX = 32,                /* containers inside containers; the format itself needs 7 */
    OBJECTS_MAX = 200000,          /* JSON or msgpack values in a body: jansson takes about 77 bytes
                                      for each byte of "{}," and msgpack-c 24 for each nil */
    JSON_TENSOR_NUMBERS_MAX = 100000, /* in one body as JSON; larger tensors travel as msgpack bin
                                      or base64 */
    JSON_REPLY_NUMBERS_MAX = 4 << 20, /* saved by a request whose reply is JSON: two seconds of a
                                      core that nobody is charged for, and 40 MB; msgpack takes
                                      none */
    TOKENIZE_MAX = 200000,         /* tokens of a /v1/tokenize: as many as /v1/detokenize takes; a
                                      reply takes a hundred bytes for each while it is written */
    NAME_BYTES_MAX = 64,           /* a node's name, or a save's */

    /* The graph. */
    NODES_MAX = 20000,             /* decoded, planned and answered in some 60 ms */
    EDGES_MAX = 200000,            /* arguments that are nodes, summed over the graph */
    INVOKES_MAX = 256,             /* one for each prompt: an experiment on each head of GPT-2 small
                                      has 144 */
    SEQUENCES_MAX = 256,           /* prompts, summed over the invokes */
    SAVES_MAX = 4096,
    INDICES_MAX = 1 << 26,         /* constant indices that planning checks: half a second of a
                                      core */
    ELEMENT_COST = 64,             /* what an element of an op other than a product counts for, in
                                      multiply-adds: 1 ns, in which a core does 50; and so many
                                      times as much */
    STRIDED = 4,                   /* where neighbours lie apart: 2 to 8 ns */
    SLOW = 8,                      /* for a logarithm or an index: 5 to 10 ns */
    VERY_SLOW = 16,                /* for a sine, a power or erf: 16 to 20 ns, 70 at most */
    PRODUCT_MARGIN = 32,           /* a product takes the time of so many rows and terms beyond its
                                      own, */
    PRODUCT_COLUMNS = 16,          /* of a multiple of so many columns */
    PRODUCT_PACKED = 48,           /* and of so many beyond those: for what it packs, at some 1 ns
                                      an element */
    APPLY_ROWS = 10,               /* a module of the model takes as long for one row as for so
                                      many: its weights are read, 37 GB/s beside 117 multiply-adds
                                      in 1 ns */
    GREEDY_COST = 128,             /* choosing a token, in multiply-adds for each id of the
                                      vocabulary: 1 ns for the likeliest, of one core alone, */
    DRAW_COST = 640,               /* 5 for one that is drawn, and */
    SORTED_DRAW_COST = 2560,       /* 21 for one of those that top_k and top_p leave */
    ACTIONS_MAX = 300000,          /* of a graph's work: a list's tensors and all nodes; a set of
                                      padded prompts takes one for each shorter prompt */
    PADDING_LOOKS_MAX = 1 << 24,   /* rows of padded prompts that are looked at to count what sets
                                      touch: about 0.2 s; later sets are counted with padding */
    RANK_MAX = 8,                  /* torch code rarely passes 5; descriptors are copied freely */

    /* The work. */
    NEW_TOKENS_MAX = 1024,         /* GPT-2's whole context */
    USERS_COUNTED = 1024,          /* what each holds is counted: users whose numbers fall together
                                      share a count */
    STOP_IDS_MAX = 256,            /* each is looked for behind every token */
    STOP_TEXTS_MAX = 16,           /* OpenAI takes 4 */
    STOP_TEXT_BYTES_MAX = 256,     /* so much of a stream may be held back for it */
    TOP_LOGPROBS_MAX = 20,         /* OpenAI takes 5 */
    ROWS_MAX = 4096,               /* rows of a pass, at most: prompts of one invoke share one */
    ROWS_DEFAULT = 2048,           /* rows of a large pass, the option --rows: scratch is sized by
                                      it */
    PASS_ROWS_DEFAULT = 192,       /* rows of a shared pass: products are as fast as they get, and a
                                      pass of GPT-2 takes a tenth of a second of two cores */

    TILE_ROWS = 32,                /* rows of logits that exist at once where a graph needs only
                                      what it makes of each: products are nearly as fast as they
                                      get, and GPT-2's take 6 MB, which stays in a cache */
    TILED_BYTES_MIN = 1 << 20,     /* smaller products are made whole */

    /* The service. */
    CONNECTIONS_MAX = 2048,        /* a thread each, of 256 KiB stack, touched as it is needed */
    PLANNING_MAX = 8,              /* requests decoded and planned, or tokenized, at once, half
                                      of them one user's: each may take 60 MB that is counted
                                      only when it is done, beside what its body may take */
    QUEUE_MAX = 2048,              /* requests that wait; more are told to come back (503) */
    RUNNING_MAX = 256,             /* requests that have their memory, of which a pass takes rows */
    HEADER_BYTES_MAX = 64 << 10,
    WANTED_BYTES_MAX = 1024,       /* names of headers that a web page wants to send, as a list:
                                      OpenAI's client has 300 bytes of them */
    HEADER_SECONDS_MAX = 10,       /* slow senders hold a thread no longer */
    BODY_SECONDS_MAX = 60,
    IDLE_SECONDS_MAX = 30,         /* between requests */
    REPLY_SECONDS_MAX = 60,        /* to take 128 KiB of a reply: who is slower than two kilobytes a
                                      second holds its memory no longer */
    HEARTBEAT_SECONDS = 10,        /* keeps proxies from closing a quiet reply */
    DRAIN_SECONDS = 30,            /* how long SIGTERM lets running requests go on */

    /* Files of a model. */
    CONFIG_BYTES_MAX = 1 << 20,
    TOKENIZER_BYTES_MAX = 64 << 20, /* GPT-2's tokenizer.json has 1.4 MB */
    SAFETENSORS_HEADER_MAX = 100 << 20, /* the format's own limit */
};

#define TEMPERATURE_MAX 1e6 /* where every token is as likely as any other */
#define PENALTY_MAX 1e3 /* where what was said is never said again */

#define VALUE_BYTES_MAX (INT64_C(1) << 30)   /* one tensor of the graph */
#define RESULT_BYTES_MAX (INT64_C(256) << 20) /* all saves of a request; GPT-2's logits for 1,024
                                                 tokens take 206 MB */
#define SLAB_BYTES_MAX (INT64_C(1) << 30)    /* what a request's values take at once */
#define STRETCH_MAX (INT64_C(3) << 30)       /* those at a stretch, in which others wait: sorting a
                                                row of 2.3 million takes a tenth of a second */
#define COMPUTE_MAX (INT64_C(200) << 30)     /* multiply-adds that a graph may ask for by itself:
                                                about two seconds of two cores */
