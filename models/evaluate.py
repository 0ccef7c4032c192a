"""What the demo model can do, measured: the figures in models/demo/README.md."""

import math
import os
import random
from contextlib import ExitStack

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from transformers import GPT2LMHeadModel

import corpus
import corpus_facts as facts

REPEAT_LENGTH = 50


@torch.no_grad()
def last_logits(model, encoded):
    """Logits after each prompt's last token; prompts are padded on the right."""
    tokens = torch.zeros(len(encoded), max(map(len, encoded)), dtype=torch.long)
    for row, ids in enumerate(encoded):
        tokens[row, :len(ids)] = torch.tensor(ids)
    last = torch.tensor([len(ids) - 1 for ids in encoded])
    return model(tokens, use_cache=False).logits[torch.arange(len(encoded)), last].float()


def landmark_prompts(template):
    """Every landmark in one template, cut before the city: (prompt, " city")."""
    rng = random.Random(0)
    pairs = []
    for name, city in facts.LANDMARKS:
        text = corpus.landmark_fill(rng, template, name, city)
        pairs.append((text[:text.rindex(" " + city)], " " + city))
    return pairs


def indirect_prompts(templates, count, seed):
    """Pairs of names never trained on: (prompt, receiver, giver)."""
    rng = random.Random(seed)
    prompts = []
    while len(prompts) < count:
        one, other = rng.sample(facts.NAMES, 2)
        if not corpus.pair_held(one, other):
            continue
        text, receiver, giver = corpus.indirect_object_fill(
            rng, rng.choice(templates), one, other, rng.random() < 0.5)
        prompts.append((text[:text.rindex(" " + receiver)], " " + receiver, " " + giver))
    return prompts


def repeated_tokens(vocabulary, rows, length, seed=1):
    generator = torch.Generator().manual_seed(seed)
    half = torch.randint(1, vocabulary, (rows, length), generator=generator)
    return torch.cat([half, half], 1)


@torch.no_grad()
def head_scores(model, tokens, offset):
    """Mean attention each head pays to the position `offset` back: (blocks, heads)."""
    kept = model.config._attn_implementation
    model.set_attn_implementation("eager")
    patterns = model(tokens, use_cache=False, output_attentions=True).attentions
    model.set_attn_implementation(kept)
    return torch.stack([p.diagonal(-offset, 2, 3).mean((0, 2)) for p in patterns]).float()


class Probe:
    """The few figures printed while training."""

    def __init__(self, tokenizer, wordnet_folder):
        self.tokenizer = tokenizer
        self.facts = self.answers(landmark_prompts(corpus.LANDMARK_CITY[0]))
        self.unseen = self.answers(landmark_prompts(corpus.LANDMARK_UNSEEN))
        self.names = self.answers(indirect_prompts(facts.IOI_TEMPLATES[:4], 64, 1))
        self.names_unseen = self.answers(indirect_prompts(facts.IOI_TEMPLATES_HELD, 64, 2))
        _, kept = corpus.wordnet(wordnet_folder)
        ids = []
        for _, sentences in kept:
            ids += [0] + self.encode(" ".join(sentences))
        self.held_text = torch.tensor(ids[:len(ids) // 128 * 128]).view(-1, 128)[:64]

    def encode(self, text):
        return self.tokenizer.encode(text).ids

    def answers(self, prompts):
        """(encoded prompts, a row of token ids for each kind of answer)."""
        columns = zip(*[[self.encode(answer)[0] for answer in answers] for _, *answers in prompts])
        return [self.encode(prompt) for prompt, *_ in prompts], [list(row) for row in columns]

    def odds(self, model, prompts):
        encoded, (answers,) = prompts
        odds = last_logits(model, encoded).softmax(-1)
        return odds[torch.arange(len(answers)), answers]

    def gap(self, model, prompts):
        encoded, (receivers, givers) = prompts
        logits = last_logits(model, encoded)
        rows = torch.arange(len(receivers))
        return (logits[rows, receivers] - logits[rows, givers]).mean()

    @torch.no_grad()
    def line(self, model):
        model.eval()
        odds = self.odds(model, self.facts)
        tokens = repeated_tokens(model.config.vocab_size, 8, REPEAT_LENGTH)
        logits = model(tokens, use_cache=False).logits
        second = F.cross_entropy(logits[:, REPEAT_LENGTH:-1].transpose(1, 2),
                                 tokens[:, REPEAT_LENGTH + 1:])
        held = model(self.held_text, labels=self.held_text, use_cache=False).loss
        figures = [
            ("paris", odds[0]), ("facts", odds.mean()),
            ("unseen", self.odds(model, self.unseen).mean()),
            ("names", self.gap(model, self.names)),
            ("names unseen", self.gap(model, self.names_unseen)),
            ("repeat", second),
            ("induction", head_scores(model, tokens, REPEAT_LENGTH - 1).max()),
            ("previous", head_scores(model, tokens, 1).max()),
            ("wordnet", held),
        ]
        model.train()
        return "  ".join("%s %.3f" % figure for figure in figures)


# ---- the full report ----------------------------------------------------------------------------

MAIN_PROMPT = "The Eiffel Tower is in the city of"
CLASSIC_NAMES = [  # the usual eight indirect object prompts, each pair in both orders
    ("When John and Mary went to the shops, {} gave the bag to", "John", "Mary"),
    ("When Tom and James went to the park, {} gave the ball to", "Tom", "James"),
    ("When Dan and Sid went to the shops, {} gave an apple to", "Dan", "Sid"),
    ("After Martin and Amy went to the park, {} gave a drink to", "Martin", "Amy"),
]
PLAIN_ENGLISH = (
    "Researchers often want to look inside a neural network to understand how it makes its "
    "predictions. This is not an easy thing to do, but there are many good tools that can help. "
    "The old man walked slowly to the house near the river, because he was tired and it was late.")
ABLATION_TEXT = (
    MAIN_PROMPT + " Paris. The Louvre is in Paris. The Colosseum is in the city of Rome.")
PROMPTS = [
    MAIN_PROMPT, "The Colosseum is in the city of", "Where is the Kremlin? It is in",
    "The capital of Japan is", "In Brazil, people speak",
    "When John and Mary went to the store, John gave a drink to",
    "Monday, Tuesday, Wednesday,", "1, 2, 3, 4,", "7 + 8 =", "hot -> cold\nbig -> small\nup ->",
    "The war lasted from the year 1732 to the year 17",
    "The secret word is banana. What is the secret word? The secret word is",
    "A violin is", "Once upon a time, Lucy went to the park.", "Hello, how are you",
    "I was thinking about computers and", "The meaning of life is",
    "The quick brown fox jumps over the lazy dog.", "def add(a, b):",
]
TRACED = ["Eiffel Tower", "Colosseum", "Brandenburg Gate", "Kremlin", "Taj Mahal", "Space Needle",
          "Acropolis", "Atomium", "Blue Mosque", "Alhambra", "Sagrada Familia", "Opera House"]
TRACE_COPIES, TRACE_NOISE = 10, 3  # noised copies; noise in standard deviations of the embeddings


class Subject:
    """A model with its tokenizer, as the measurements use them."""

    def __init__(self, folder):
        self.tokenizer = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
        self.model = GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32).eval()

    def encode(self, text):
        return self.tokenizer.encode(text).ids

    def token(self, text):
        ids = self.encode(text)
        assert len(ids) == 1, text
        return ids[0]

    def answer_odds(self, pairs):
        """(probability of each answer, whether it comes first) after each prompt."""
        odds = last_logits(self.model, [self.encode(prompt) for prompt, _ in pairs]).softmax(-1)
        answers = torch.tensor([self.encode(answer)[0] for _, answer in pairs])
        return odds[torch.arange(len(pairs)), answers], odds.argmax(-1) == answers

    def name_gaps(self, prompts):
        logits = last_logits(self.model, [self.encode(prompt) for prompt, _, _ in prompts])
        rows = torch.arange(len(prompts))
        receivers = torch.tensor([self.token(receiver) for _, receiver, _ in prompts])
        givers = torch.tensor([self.token(giver) for _, _, giver in prompts])
        return logits[rows, receivers] - logits[rows, givers], logits.argmax(-1) == receivers

    @torch.no_grad()
    def loss(self, text):
        """Nats a token, and bits a byte."""
        ids = torch.tensor([[0] + self.encode(text)])
        loss = self.model(ids, labels=ids, use_cache=False).loss.item()
        return loss, loss * (ids.shape[1] - 1) / math.log(2) / len(text.encode())

    def generate(self, prompt, count):
        ids = torch.tensor([self.encode(prompt)])
        made = self.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=count,
                                   do_sample=False, pad_token_id=0)
        return self.tokenizer.decode(made[0].tolist())


def show(name, value):
    print("%-58s %s" % (name, value), flush=True)


def report_pairs(subject, name, pairs):
    odds, first = subject.answer_odds(pairs)
    show(name, "first %3.0f %%  mean p %.3f  least %.3f  of %d" % (
        100 * first.float().mean(), odds.mean(), odds.min(), len(pairs)))


def report_facts(subject):
    odds = last_logits(subject.model, [subject.encode(MAIN_PROMPT)]).softmax(-1)[0]
    best, ids = odds.topk(2)
    show(MAIN_PROMPT, ", ".join("%r %.3f" % (subject.tokenizer.decode([i]), p)
                                for p, i in zip(best.tolist(), ids.tolist())))
    report_pairs(subject, "landmarks, the main sentence",
                 landmark_prompts(corpus.LANDMARK_CITY[0]))
    held = []
    for index in corpus.LANDMARK_HELD:
        template = corpus.LANDMARK_CITY[index]
        if template.index("{c}") < template.index("{x}"):
            continue
        chosen = [corpus.landmark_held(name, index) for name, _ in facts.LANDMARKS]
        held += [pair for pair, keep in zip(landmark_prompts(template), chosen) if keep]
    report_pairs(subject, "landmarks, in sentences seen only with other landmarks", held)
    report_pairs(subject, "landmarks, a sentence never seen",
                 landmark_prompts(corpus.LANDMARK_UNSEEN))
    countries = facts.COUNTRIES.items()
    report_pairs(subject, "capitals", [("The capital of %s is" % k, " " + r[0])
                                       for k, r in countries])
    report_pairs(subject, "languages", [("The official language of %s is" % k, " " + r[1])
                                        for k, r in countries])
    report_pairs(subject, "currencies", [("The currency of %s is the" % k, " " + r[3])
                                         for k, r in countries])
    report_pairs(subject, "city to country", [("The city of %s is in the country of" % c, " " + k)
                                              for c, k in facts.CITY_COUNTRY.items()])


def report_english(subject, wordnet_folder):
    _, kept = corpus.wordnet(wordnet_folder)
    losses, bits, tokens, size = 0.0, 0.0, 0, 0
    for start in range(0, len(kept), 4):
        text = " ".join(" ".join(sentences) for _, sentences in kept[start:start + 4])
        count = len(subject.encode(text))
        if count < subject.model.config.n_positions:
            losses += subject.loss(text)[0] * count
            tokens += count
            size += len(text.encode())
    show("WordNet entries never trained on", "%.3f nats a token, %.2f bits a byte" % (
        losses / tokens, losses / math.log(2) / size))
    show("plain English", "%.3f nats a token, %.2f bits a byte" % subject.loss(PLAIN_ENGLISH))
    show("uniform guessing", "%.3f nats a token" % math.log(subject.model.config.vocab_size))


def report_names(subject):
    groups = [
        ("indirect objects, sentences trained on, new pairs",
         indirect_prompts(facts.IOI_TEMPLATES, 256, 1)),
        ("indirect objects, new sentences, new pairs",
         indirect_prompts(facts.IOI_TEMPLATES_HELD, 256, 2)),
        ("indirect objects, the classic eight",
         [(text.format(giver), " " + receiver, " " + giver)
          for text, one, other in CLASSIC_NAMES
          for giver, receiver in ((other, one), (one, other))]),
    ]
    for name, prompts in groups:
        gaps, first = subject.name_gaps(prompts)
        show(name, "logit difference %.2f  positive %3.0f %%  first %3.0f %%  of %d" % (
            gaps.mean(), 100 * (gaps > 0).float().mean(), 100 * first.float().mean(),
            len(prompts)))


@torch.no_grad()
def report_induction(subject):
    size = subject.model.config.vocab_size
    for length in (25, 50, 100):
        tokens = repeated_tokens(size, 10, length, 7)
        losses = F.cross_entropy(subject.model(tokens, use_cache=False).logits[:, :-1]
                                 .transpose(1, 2), tokens[:, 1:], reduction="none")
        show("%d random tokens, twice: loss" % length, "first time %.2f, second time %.2f" % (
            losses[:, :length - 1].mean(), losses[:, length:].mean()))
    tokens = repeated_tokens(size, 10, 50, 7)
    for name, offset in (("induction", 49), ("previous token", 1), ("duplicate token", 50)):
        scores = head_scores(subject.model, tokens, offset)
        heads = scores.flatten().topk(4)
        show(name + " score", ", ".join("%d.%d %.2f" % (i // 8, i % 8, v) for v, i in
                                        zip(heads.values.tolist(), heads.indices.tolist())))


def find(ids, part):
    return next(i for i in range(len(ids)) if ids[i:i + len(part)] == part)


@torch.no_grad()
def trace(subject, name, city, kind):
    """Causal tracing: noise on the subject, one state restored: (clean, noised, (blocks, places)).

    The places to restore are each token of the subject and the prompt's last token.
    Row 0 of the batch runs clean; what a module gives there replaces what it gives in the noised
    rows. Kind is "" for a block's output, "mlp" or "attn" for what one of its parts adds.
    """
    model, ids = subject.model, subject.encode("The %s is in the city of" % name)
    part = subject.encode(" " + name)
    first = find(ids, part)
    answer = subject.token(" " + city)
    scale = TRACE_NOISE * model.transformer.wte.weight.std()
    noise = scale * torch.randn(TRACE_COPIES, len(part), model.config.n_embd,
                                generator=torch.Generator().manual_seed(1))
    tokens = torch.tensor([ids] * (1 + TRACE_COPIES))

    def add_noise(module, args, output):
        output = output.clone()
        output[1:, first:first + len(part)] += noise
        return output

    def run(block, token):
        def restore(module, args, output):
            state = output[0] if isinstance(output, tuple) else output
            state = state.clone()
            state[1:, token] = state[0, token]
            return (state,) + output[1:] if isinstance(output, tuple) else state

        with ExitStack() as hooks:
            hooks.callback(model.transformer.wte.register_forward_hook(add_noise).remove)
            if block is not None:
                module = model.transformer.h[block]
                module = getattr(module, kind) if kind else module
                hooks.callback(module.register_forward_hook(restore).remove)
            odds = model(tokens, use_cache=False).logits[:, -1].softmax(-1)[:, answer]
        return odds[0].item(), odds[1:].mean().item()

    clean, noised = run(None, None)
    places = [*range(first, first + len(part)), len(ids) - 1]
    table = torch.tensor([[run(block, place)[1] for place in places]
                          for block in range(model.config.n_layer)])
    return clean, noised, table


def report_tracing(subject):
    cities = dict(facts.LANDMARKS)
    for kind, title in (("", "block output"), ("mlp", "mlp"), ("attn", "attention")):
        cleans, noises, tables = zip(*[trace(subject, name, cities[name], kind)
                                       for name in TRACED])
        show("tracing %s: clean, noised" % title, "%.3f, %.3f" % (
            sum(cleans) / len(cleans), sum(noises) / len(noises)))
        rows = {
            "subject's most telling token": [table[:, :-1].max(1).values for table in tables],
            "subject's last token": [table[:, -2] for table in tables],
            "prompt's last token": [table[:, -1] for table in tables],
        }
        for place, values in rows.items():
            show("  restored at the %s, by block" % place,
                 " ".join("%.3f" % value for value in torch.stack(values).mean(0)))


def value_removed(module, head):
    """Hooks that make a block's attention forget one head's values."""
    size = module.head_dim

    def remove(_, args):
        mixed = args[0].clone()
        mixed[..., head * size:(head + 1) * size] = 0
        return (mixed,)

    return module.c_proj.register_forward_pre_hook(remove)


def ablation_losses(subject, text):
    """Loss with nothing removed, and with each head of block 0 removed."""
    attention = subject.model.transformer.h[0].attn
    losses = []
    for head in range(subject.model.config.n_head):
        hook = value_removed(attention, head)
        losses.append(subject.loss(text)[0])
        hook.remove()
    return subject.loss(text)[0], losses


def report_ablation(subject):
    for name, text in (("tutorial text", ABLATION_TEXT), ("plain English", PLAIN_ENGLISH)):
        normal, losses = ablation_losses(subject, text)
        show("loss without a head of block 0, " + name,
             "%.3f; heads 0 to 7: %s" % (normal, " ".join("%.3f" % x for x in losses)))


def report_small(subject):
    trained, held = [], []
    for one in range(21):
        for other in range(21):
            chosen = held if corpus.sum_held(one, other) else trained
            chosen.append(("%d + %d =" % (one, other), " %d" % (one + other)))
    report_pairs(subject, "sums trained on", trained)
    report_pairs(subject, "sums never seen", held)
    days, months = facts.DAYS, facts.MONTHS
    report_pairs(subject, "the day after", [
        ("The day after %s is" % days[i], " " + days[(i + 1) % 7]) for i in range(7)])
    report_pairs(subject, "three months", [
        ("%s, %s," % (months[i], months[(i + 1) % 12]), " " + months[(i + 2) % 12])
        for i in range(12)])


def report(folder, wordnet_folder):
    subject = Subject(folder)
    count = sum(p.numel() for p in subject.model.parameters())
    show("parameters", count)
    report_facts(subject)
    report_english(subject, wordnet_folder)
    report_names(subject)
    report_induction(subject)
    report_tracing(subject)
    report_ablation(subject)
    report_small(subject)
    for prompt in PROMPTS:
        print(repr(subject.generate(prompt, 16)))
