"""Saved arrays go when the names of them do, at once: no cycle of the client's holds them until
Python's collector comes by, and no other value of the run does."""
import gc
import weakref

import numpy as np
import pytest

import interpose
from interpose import LanguageModel, NoValue

IDS = list(range(10))


@pytest.fixture(scope="module")
def model(server):
    return LanguageModel("demo", host=server.host, progress=False)


def saved(model):
    with model.trace(IDS) as tracer:
        x = model.lm_head.output.save()
    return [x], tracer


def saved_in_passing(model):
    with model.trace(IDS):
        x = model.lm_head.output
        x.save()
    return [x], None


def a_smaller_one_is_kept(model):
    with model.trace(IDS):
        x = model.lm_head.output.save()
        mean = x.mean().save()
    return [x], mean


def a_view_is_kept(model):
    with model.trace(IDS):
        x = model.transformer.h[0].output[0]
        row = x[:, 1].save()
        x = x.save()
    return [x], row


def replaced(model):
    with model.trace(IDS):
        old = model.transformer.h[0].output[0]
        model.transformer.h[0].output[0] = old * 2
        new = model.transformer.h[0].output[0].save()
        old, more = old.save(), (old + 1).save()
    return [old, new, more], None


def changed_in_place(model):
    with model.trace(IDS):
        x = model.transformer.h[0].output[0]
        before = x.save()
        x[:, 1] = 0
        x = x.save()
    return [before, x], None


def of_a_tuple(model):
    with model.trace(IDS):
        x = model.transformer.h[0].output.save()
    return [x[0], x[1][0]], None


def in_a_list(model):
    with model.generate(IDS, max_new_tokens=3) as tracer:
        x = interpose.list().save()
        with tracer.iter[:]:
            x.append(model.lm_head.output)
    return x, tracer


def of_steps(model):
    with model.generate(IDS, max_new_tokens=3) as tracer:
        x = [model.lm_head.output.save() for _ in tracer.iter[:]]
    return x, tracer


def in_a_cache(model):
    with model.trace(IDS) as tracer:
        cache = tracer.cache()
    return [cache["transformer.h.0.mlp"].output, cache["lm_head"].output], tracer


def run_with_cache(model):
    logits, cache = model.run_with_cache(IDS)
    return [logits, cache["resid_post", 0]], None


def under_a_condition(model):
    with model.trace(IDS) as tracer:
        x = model.transformer.h[0].output[0]
        with tracer.cond(x.sum() < 1e9):
            x[:] = 0
            inside = x.save()
        x = x.save()
    return [x, inside], tracer


def of_all_prompts(model):
    with model.trace() as tracer:
        with tracer.invoke(IDS):
            x = model.lm_head.output.save()
        with tracer.invoke():
            y = model.transformer.h[1].output[0]
            y[:] = y * 2
            y = y.save()
    return [x, y], tracer


def in_a_session(model):
    with model.session() as session:
        with model.trace(IDS):
            x = model.transformer.h[0].output[0].save()
        with model.trace(IDS):
            model.transformer.h[0].output[0] = x
            y = model.lm_head.output.save()
        z = (x + 1).save()
    return [x, y, z], session


def edited(model):
    with model.edit() as other:
        model.transformer.h[0].output[0][:] = 0
    with other.trace(IDS):
        x = other.lm_head.output.save()
    return [x], other


def stopped(model):
    with model.trace(IDS) as tracer:
        x = model.transformer.h[0].output[0]
        y = x.save()
        tracer.stop()
        x.save()
    return [y], tracer


PROGRAMS = [saved, saved_in_passing, a_smaller_one_is_kept, a_view_is_kept, replaced,
            changed_in_place, of_a_tuple, in_a_list, of_steps, in_a_cache, run_with_cache,
            under_a_condition, of_all_prompts, in_a_session, edited, stopped]


def references(model, program):
    """Weak ones to the arrays, and what else is kept of the run."""
    arrays, kept = program(model)
    return [weakref.ref(owner(getattr(x, "value", x))) for x in arrays], kept


def owner(array):
    """The array whose memory a view shows."""
    assert isinstance(array, np.ndarray) and array.nbytes > 0
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: p.__name__)
def test_arrays_go_with_their_names(model, program):
    gc.collect()
    gc.disable()
    try:
        arrays, kept = references(model, program)
        assert [array() is None for array in arrays] == [True] * len(arrays)
    finally:
        gc.enable()
    del kept


def test_the_shape_of_what_was_not_saved(model):
    with model.trace(IDS):
        x = model.transformer.h[0].output[0]
        assert x.shape == (1, 10, model.config.width)
        y = x[:, 1]
        x.mean().save()
    assert x.shape == (1, 10, model.config.width)
    with pytest.raises(NoValue) as caught:
        y.shape
    assert str(caught.value) == ("transformer.h.0.output[0][:, 1] has no shape: the run has ended "
                                 "without its being saved or its shape asked for")
