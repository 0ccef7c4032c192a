#include "routes.h"
#include "../protocol/encode_writer.h"
#include "../protocol/parts.h"
#include "accept.h"
#include "completions.h"
#include "metrics.h"
#include "reply.h"
#include <string.h>
#include <time.h>

enum {
    RETRY_SECONDS = 1
};

struct call { /* one request on its way through its route */
    struct service *service;
    struct http_request *request;
    struct http_reply *reply;
    enum media media; /* of the body of a POST */
    enum reply_media reply_media;
};

typedef bool route_fn(struct call *c, struct err *e);

static route_fn run, plan, completions, tokenize, detokenize, models, model, spec, healthz, readyz,
    metrics;

static const struct route {
    const char *method, *path; /* a path that ends in "/" has a name behind it */
    route_fn *answer;
    bool is_openai; /* replies in OpenAI's form, whatever Accept says */
    bool is_held;   /* a document that may take a hundred times what its request did */
} routes[] = {
    {"POST", "/v1/run", run, false, false},
    {"POST", "/v1/plan", plan, false, true},
    {"POST", "/v1/completions", completions, true, false},
    {"POST", "/v1/tokenize", tokenize, false, true},
    {"POST", "/v1/detokenize", detokenize, false, true},
    {"GET", "/v1/models", models, false, false},
    {"GET", "/v1/models/", model, true, false},
    {"GET", "/v1/spec", spec, false, false},
    {"GET", "/healthz", healthz, false, false},
    {"GET", "/health", healthz, false, false},
    {"GET", "/readyz", readyz, false, false},
    {"GET", "/metrics", metrics, false, false},
};

enum {
    N_ROUTES = sizeof routes / sizeof routes[0]
};

/* Finding the route. */

static bool path_fits(const struct route *r, const char *path)
{
    const size_t length = strlen(r->path);
    return strncmp(path, r->path, length) == 0 && (r->path[length - 1] == '/' || !path[length]);
}

static bool method_fits(const struct route *r, const char *method)
{
    return strcmp(r->method, method) == 0 ||
           (strcmp(method, "HEAD") == 0 && strcmp(r->method, "GET") == 0);
}

/* The methods of a path, for Allow; NULL where there is no such path. */
static const char *methods_of(const char *path)
{
    for (int i = 0; i < N_ROUTES; i++) {
        if (path_fits(&routes[i], path))
            return strcmp(routes[i].method, "GET") == 0 ? "GET, HEAD" : routes[i].method;
    }
    return NULL;
}

static const char *nearest_path(const char *path)
{
    const char *best = routes[0].path;
    int distance = 64;
    for (int i = 0; i < N_ROUTES; i++) {
        int d = text_distance(path, strlen(path), routes[i].path, strlen(routes[i].path));
        if (d < distance) {
            distance = d;
            best = routes[i].path;
        }
    }
    return best;
}

static bool find_route(const struct route **route, const struct http_request *r, struct err *e)
{
    for (int i = 0; i < N_ROUTES; i++) {
        *route = &routes[i];
        if (path_fits(&routes[i], r->path) && method_fits(&routes[i], r->method))
            return true;
    }
    const char *methods = methods_of(r->path);
    if (methods)
        return err_set(e, ERR_method, "%s takes %s, not %s", r->path, methods, r->method);
    return err_set(e, ERR_unknown, "there is no %.100s here; the nearest is %s", r->path,
                   nearest_path(r->path));
}

static bool check(void *context, const struct http_request *r, struct err *e)
{
    (void)context;
    const struct route *route;
    enum media media;
    enum reply_media reply_media;
    return find_route(&route, r, e) &&
           (route->is_openai || accept_reply(&reply_media, r->accept, e)) &&
           (strcmp(route->method, "GET") == 0 || accept_body(&media, r->content_type, e));
}

/* Replies. */

static const char *document_type(enum reply_media media)
{
    return reply_media_type[media == REPLY_msgpack ? REPLY_msgpack : REPLY_json];
}

static bool reply_with(struct call *c, struct bytes body)
{
    *c->reply = (struct http_reply){.status = 200,
                                    .content_type = document_type(c->reply_media),
                                    .body = body.at,
                                    .body_size = body.size};
    return true;
}

static void say_error(struct http_reply *reply, const struct http_request *r, const struct err *e)
{
    struct err ignored = {0};
    const struct route *route;
    enum reply_media media;
    accept_reply(&media, r->accept, &ignored);
    const bool is_openai = find_route(&route, r, &ignored) && route->is_openai;
    const struct bytes body = is_openai ? completion_error(e, r->id, r->arena)
                                        : encode_error(e, r->id, media, r->arena);
    *reply = (struct http_reply){.status = err_info[e->code].http,
                                 .content_type = document_type(is_openai ? REPLY_json : media),
                                 .body = body.at,
                                 .body_size = body.size};
    if (e->code == ERR_method)
        reply->allow = methods_of(r->path);
    if (reply->status == 503)
        reply->retry_seconds = RETRY_SECONDS;
}

static void refuse(void *context, struct http_reply *reply, const struct http_request *r,
                   const struct err *e)
{
    (void)context;
    metric_add_error(e->code);
    say_error(reply, r, e);
}

/* Planning. */

/* Returns whether it had to wait. */
static bool enter(sem_t *places)
{
    if (sem_trywait(places) == 0)
        return false;
    while (sem_wait(places) != 0)
        continue; /* a signal came */
    return true;
}

static sem_t *users_places(struct call *c)
{
    return &c->service->planning_of[c->request->user % USERS_COUNTED];
}

static void planning_end(struct call *c)
{
    sem_post(&c->service->planning);
    sem_post(users_places(c));
}

/* A graph takes memory that nothing has counted until its job is reserved: a few at a time. Whoever
 * sends many waits among them, and others find a place. Who waited until the server stops, or left
 * meanwhile, is not planned any more: a crowd of them would keep it for minutes. */
static bool planning_begin(struct call *c, struct err *e)
{
    const bool waited_for_own = enter(users_places(c)), waited = enter(&c->service->planning);
    const bool left = (waited_for_own || waited) && http_client_left(c->request);
    if (!left && queue_is_open(c->service->queue, e))
        return true;
    planning_end(c);
    return err_set(e, ERR_cancelled, "the client left before its request was planned");
}

static void let_go_held(void *context)
{
    held_let_go(context);
}

/* Who does not read its reply keeps the memory of its request: that counts until the last byte has
 * left. */
static bool hold_reply(struct call *c, struct err *e)
{
    struct held *h = ARENA_NEW(c->request->arena, struct held);
    c->reply->done = let_go_held;
    c->reply->stream = h;
    return held_take(h, c->request->user, (int64_t)c->request->arena->used, e);
}

static bool answer_held(struct call *c, route_fn *make, struct err *e)
{
    if (!planning_begin(c, e))
        return false;
    const bool made = make(c, e) && hold_reply(c, e);
    planning_end(c);
    return made;
}

static void answer(void *context, struct http_reply *reply, struct http_request *r)
{
    struct call c = {.service = context, .request = r, .reply = reply};
    struct err e = {0};
    const struct route *route;
    if (!find_route(&route, r, &e) ||
        (!route->is_openai && !accept_reply(&c.reply_media, r->accept, &e)) ||
        (strcmp(route->method, "POST") == 0 && !accept_body(&c.media, r->content_type, &e)) ||
        !(route->is_held ? answer_held(&c, route->answer, &e) : route->answer(&c, &e)))
        refuse(context, reply, r, &e);
}

struct http_service routes_of(struct service *s)
{
    int failed = sem_init(&s->planning, 0, PLANNING_MAX);
    for (int i = 0; i < USERS_COUNTED; i++)
        failed |= sem_init(&s->planning_of[i], 0, PLANNING_MAX / 2);
    assert(!failed);
    return (struct http_service){.context = s, .check = check, .answer = answer, .refuse = refuse};
}

/* POST /v1/run and /v1/plan. */

static bool check_name(const struct call *c, const char *asked, struct err *e)
{
    const char *loaded = c->service->facts.name;
    return strcmp(asked, loaded) == 0 ||
           err_set(e, ERR_unknown, "the model \"%.100s\" is not loaded here; \"%s\" is", asked,
                   loaded);
}

static bool check_model(const struct call *c, const struct graph *g, struct err *e)
{
    return !g->model || check_name(c, g->model, e) || err_at(e, -1, "model");
}

/* `instead` is what can be done without one. */
static bool check_tokenizer(const struct call *c, const char *instead, struct err *e)
{
    return c->service->bpe || err_set(e, ERR_file, "the model %s has no tokenizer: %s",
                                      c->service->facts.name, instead);
}

static const char use_run[] = "/v1/run takes and gives token ids";

/* The planner says how many tokens are too many; ROWS_MAX only bounds the work until then. */
static bool tokenize_prompts(const struct call *c, struct graph *g, struct err *e)
{
    for (int i = 0; i < g->n_invokes; i++) {
        for (int k = 0; k < g->invokes[i].n_prompts; k++) {
            struct prompt *p = &g->invokes[i].prompts[k];
            int32_t *ids;
            if (!p->text)
                continue;
            if (k > 0 && p->text == p[-1].text) { /* a copy */
                *p = p[-1];
                continue;
            }
            if (!check_tokenizer(c, "send token ids", e) ||
                !bpe_encode(&ids, &p->n_tokens, c->service->bpe, p->text, p->text_bytes, ROWS_MAX,
                            c->request->arena, e))
                return err_at(e, -1, "%s.prompt[%d]", g->invokes[i].place, k);
            p->tokens = ids;
        }
    }
    return true;
}

static bool check_stops(const struct call *c, const struct graph *g, struct err *e)
{
    for (int i = 0; i < g->n_traces; i++) {
        const struct trace *t = &g->traces[i];
        if (t->ending.n_texts > 0 && !check_tokenizer(c, "let stop name token ids", e))
            return err_at(e, -1, "%sstop", t->place);
    }
    return true;
}

static struct job *new_job(const struct call *c)
{
    struct job *j = job_new(c->request->id, c->request->arena);
    j->turn.user = c->request->user;
    j->bpe = c->service->bpe;
    return j;
}

/* Whether its request makes sense. */
static bool plan_job(struct job *j, const struct call *c, struct err *e)
{
    return check_model(c, &j->graph, e) && check_stops(c, &j->graph, e) &&
           tokenize_prompts(c, &j->graph, e) &&
           plan_build(&j->plan, &j->graph, c->service->facts.shape, c->request->arena, e);
}

/* Invokes with more rows, or logits, than a pass takes go in several. */
static bool cut_job(struct job *j, const struct call *c, struct err *e)
{
    const struct capacity *most = &c->service->capacity;
    const int n_rows = j->plan.n_rows, n_logits = j->plan.n_logits;
    if (n_rows <= most->rows && n_logits <= most->logits)
        return true;
    const struct graph whole = j->graph;
    struct err why = {0};
    parts_cut(&j->graph, &whole, &j->plan, most->rows, most->logits, c->request->arena);
    if (plan_build(&j->plan, &j->graph, c->service->facts.shape, c->request->arena, &why))
        return true;
    err_set(e, ERR_limit,
            "the prompts have %d tokens together and logits at %d positions, and a pass of this "
            "server takes %d (--rows) and %d (--logits-rows); in several passes, in the order of "
            "the invokes, %s",
            n_rows, n_logits, most->rows, most->logits, why.text);
    return err_at(e, why.node, "%s", why.where);
}

static bool make_job(struct job *j, const struct call *c, struct err *e)
{
    const struct http_request *r = c->request;
    return job_expect(j, r->body_size, e) &&
           decode_request(&j->graph, r->body, r->body_size, c->media, c->service->facts.shape,
                          r->arena, e) &&
           plan_job(j, c, e) && cut_job(j, c, e) && job_fits(j, &c->service->capacity, e);
}

static struct reply_facts *facts_of(const struct call *c, const struct job *j)
{
    struct reply_facts *f = ARENA_NEW(c->request->arena, struct reply_facts);
    *f = (struct reply_facts){.bpe = c->service->bpe,
                              .request_id = j->request_id,
                              .model = c->service->facts.name,
                              .numerics = c->service->facts.numerics,
                              .graph = &j->graph,
                              .plan = &j->plan,
                              .results = j->results,
                              .absent = j->absent,
                              .outcomes = j->outcomes,
                              .generated = j->generated};
    return f;
}

/* Its reply is an error. Once it was queued, the engine has counted it. */
static bool drop(struct job *j)
{
    if (!job_state_is_final(j->outbox.state))
        metric_add(METRIC_requests_refused, 1);
    job_free(j);
    return false;
}

static bool run(struct call *c, struct err *e)
{
    struct job *j = new_job(c);
    if (!planning_begin(c, e))
        return drop(j);
    const bool reserved = make_job(j, c, e) && reply_fits(&j->plan, c->reply_media, e) &&
                          job_reserve(j, e);
    planning_end(c);
    if (reserved &&
        reply_open(c->reply, c->request, j, c->service->queue, c->reply_media, facts_of(c, j), e))
        return true;
    return drop(j);
}

static bool plan(struct call *c, struct err *e)
{
    struct job *j = new_job(c);
    const bool made = make_job(j, c, e);
    if (made)
        reply_with(c, encode_plan(&j->graph, &j->plan, c->service->facts.shape, c->reply_media,
                                  c->request->arena));
    job_free(j);
    return made;
}

/* POST /v1/completions. */

/* Who asks for no seed gets other tokens each time: FNV-1a of the request's id, which is new each
 * time, or the client's own. */
static int64_t seed_of(const char *id)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    for (; *id; id++)
        hash = (hash ^ (unsigned char)*id) * UINT64_C(0x100000001b3);
    return (int64_t)(hash >> 1);
}

static bool make_completion(struct job *j, struct completion *asked, const struct call *c,
                            struct err *e)
{
    const struct http_request *r = c->request;
    if (!check_tokenizer(c, use_run, e) || !job_expect(j, r->body_size, e) ||
        !decode_completion(asked, &j->graph, r->body, r->body_size, c->media,
                           c->service->facts.shape, r->arena, e))
        return false;
    if (!asked->has_seed)
        j->graph.traces[0].sampling.seed = seed_of(r->id);
    return plan_job(j, c, e) && job_fits(j, &c->service->capacity, e) && job_reserve(j, e);
}

static struct completion_facts *completion_facts_of(const struct call *c, const struct job *j,
                                                    const struct completion *asked)
{
    struct completion_facts *f = ARENA_NEW(c->request->arena, struct completion_facts);
    *f = (struct completion_facts){.asked = asked,
                                   .graph = &j->graph,
                                   .plan = &j->plan,
                                   .bpe = c->service->bpe,
                                   .request_id = j->request_id,
                                   .model = c->service->facts.name,
                                   .created = (int64_t)time(NULL),
                                   .results = j->results,
                                   .generated = j->generated};
    completion_open(f, c->request->arena);
    return f;
}

static bool completions(struct call *c, struct err *e)
{
    struct job *j = new_job(c);
    struct completion *asked = ARENA_NEW(c->request->arena, struct completion);
    if (!planning_begin(c, e))
        return drop(j);
    const bool made = make_completion(j, asked, c, e);
    planning_end(c);
    if (made && completions_answer(c->reply, c->request, j, c->service->queue,
                                   completion_facts_of(c, j, asked), e))
        return true;
    return drop(j);
}

/* POST /v1/tokenize and /v1/detokenize. */

struct tokenized {
    int32_t *ids;
    int n_ids;
};

static struct writer document_of(const struct call *c)
{
    return writer_grows(c->reply_media == REPLY_msgpack ? WRITER_msgpack : WRITER_json,
                        c->request->arena);
}

static bool reply_document(struct call *c, struct writer *w)
{
    if (w->form == WRITER_json)
        write_raw(w, "\n", 1);
    return reply_with(c, (struct bytes){w->at, w->size});
}

static void write_ids(struct writer *w, const struct call *c, const struct tokenized *t)
{
    (void)c;
    write_list(w, t->n_ids);
    for (int i = 0; i < t->n_ids; i++)
        write_int(w, t->ids[i]);
    write_end(w);
}

static void write_pieces(struct writer *w, const struct call *c, const struct tokenized *t)
{
    write_list(w, t->n_ids);
    for (int i = 0; i < t->n_ids; i++) {
        size_t size;
        const char *piece = bpe_token(&size, c->service->bpe, t->ids[i]);
        write_text_of(w, piece, size);
    }
    write_end(w);
}

/* Whether a byte of UTF-8 is not the first of its character. */
static bool continues(char byte)
{
    return ((unsigned char)byte & 0xc0) == 0x80;
}

/* Where each token stands in its text, [from, to) in characters; a part of a character has that
 * character's place. The text was UTF-8: a character begins at each byte that continues none. */
static void write_offsets(struct writer *w, const struct call *c, const struct tokenized *t)
{
    int begun = 0;
    write_list(w, t->n_ids);
    for (int i = 0; i < t->n_ids; i++) {
        size_t size;
        const char *piece = bpe_token(&size, c->service->bpe, t->ids[i]);
        write_list(w, 2);
        write_int(w, size && continues(piece[0]) ? begun - 1 : begun);
        for (size_t k = 0; k < size; k++)
            begun += !continues(piece[k]);
        write_int(w, begun);
        write_end(w);
    }
    write_end(w);
}

typedef void write_fn(struct writer *w, const struct call *c, const struct tokenized *t);

/* A value for each text, in a list if the texts came as one. */
static void write_each(struct writer *w, const struct call *c, const struct text_list *texts,
                       const struct tokenized *found, write_fn *write)
{
    if (texts->is_list)
        write_list(w, texts->count);
    for (int i = 0; i < texts->count; i++)
        write(w, c, &found[i]);
    if (texts->is_list)
        write_end(w);
}

static bool tokenize(struct call *c, struct err *e)
{
    const struct http_request *r = c->request;
    struct text_list texts;
    if (!check_tokenizer(c, use_run, e) ||
        !decode_texts(&texts, r->body, r->body_size, c->media, r->arena, e))
        return false;
    struct tokenized *found = ARENA_ARRAY(r->arena, struct tokenized, (size_t)texts.count);
    for (int i = 0, left = TOKENIZE_MAX; i < texts.count; left -= found[i++].n_ids) {
        if (!bpe_encode(&found[i].ids, &found[i].n_ids, c->service->bpe, texts.texts[i],
                        texts.bytes[i], left, r->arena, e))
            return err_at(e, -1, "text[%d]", i);
    }
    struct writer w = document_of(c);
    write_map(&w, 3);
    write_key(&w, "tokens");
    write_each(&w, c, &texts, found, write_ids);
    write_key(&w, "pieces");
    write_each(&w, c, &texts, found, write_pieces);
    write_key(&w, "offsets");
    write_each(&w, c, &texts, found, write_offsets);
    write_end(&w);
    return reply_document(c, &w);
}

static bool detokenize(struct call *c, struct err *e)
{
    const struct http_request *r = c->request;
    struct token_lists lists;
    if (!check_tokenizer(c, use_run, e) ||
        !decode_token_lists(&lists, r->body, r->body_size, c->media, r->arena, e))
        return false;
    struct writer w = document_of(c);
    write_map(&w, 1);
    write_key(&w, "text");
    if (lists.is_list)
        write_list(&w, lists.count);
    for (int i = 0; i < lists.count; i++) {
        char *text;
        size_t size;
        if (!bpe_decode(&text, &size, c->service->bpe, lists.tokens[i], lists.lengths[i], r->arena,
                        e))
            return err_at(e, -1, "tokens[%d]", i);
        write_text_of(&w, text, size);
    }
    if (lists.is_list)
        write_end(&w);
    write_end(&w);
    return reply_document(c, &w);
}

/* The GETs. */

static bool models(struct call *c, struct err *e)
{
    (void)e;
    return reply_with(c,
                      models_document(&c->service->facts, c->reply_media, c->request->arena));
}

static bool model(struct call *c, struct err *e)
{
    return check_name(c, c->request->path + strlen("/v1/models/"), e) &&
           reply_with(c, model_document(&c->service->facts, c->request->arena));
}

static bool spec(struct call *c, struct err *e)
{
    (void)e;
    return reply_with(c, spec_document(c->reply_media, c->request->arena));
}

static bool reply_status(struct call *c, const char *status)
{
    struct writer w = document_of(c);
    write_map(&w, 1);
    write_key(&w, "status");
    write_text(&w, status);
    write_end(&w);
    return reply_document(c, &w);
}

static bool healthz(struct call *c, struct err *e)
{
    (void)e;
    return reply_status(c, "ok");
}

static bool readyz(struct call *c, struct err *e)
{
    if (queue_takes(c->service->queue, e))
        return reply_status(c, "ready");
    say_error(c->reply, c->request, e);
    c->reply->status = 503;
    c->reply->retry_seconds = RETRY_SECONDS;
    return true;
}

static bool metrics(struct call *c, struct err *e)
{
    (void)e;
    reply_with(c, metrics_text(c->request->arena));
    c->reply->content_type = METRICS_TYPE;
    return true;
}
