"""What a part of a program wrote into a run, to be written once more: at other steps of it, or at
the front of another run.

Events are kept at the level of the graph, behind all decisions of the proxies: what was added,
which hooks were asked for, what was replaced.
"""
from __future__ import annotations

from .graph import Index, Node


class Recording:
    """The events of a part of a program, in order, and the proxies that it made."""

    def __init__(self):
        self.events = []    # (verb, what it gave, its arguments)
        self.proxies = []
        self.outer = None   # the recording in which this one is made

    def take(self, verb, given, *what):
        """Keeps an event: its verb, the node that it gave (or None), and its arguments."""
        self.events.append((verb, given, what))

    def forget_items(self):
        """Takes out of lists what the recorded part put there: it will again where it is
        written."""
        for verb, _, what in self.events:
            if verb == "append":
                target, item = what
                target[:] = [each for each in target if each is not item]
            elif verb == "iterate":
                what[1].forget_items()

    def unsaved(self):
        """The same without what it saves and puts into lists, and without its proxies: for runs
        whose values are somebody else's."""
        same = Recording()
        for verb, given, what in self.events:
            if verb == "iterate":
                same.take(verb, given, what[0], what[1].unsaved())
            elif verb != "append" and (verb, what[0]) != ("add", "save"):
                same.take(verb, given, *what)
        return same

    def replay(self, run, step=None, made=None):
        """Writes everything once more, at another step of the hooks that move with the iteration.

        Returns what each recorded node has become.
        """
        made = {} if made is None else made
        for verb, given, what in self.events:
            if verb == "hook":
                path, at = what
                at = step if at is None else run.checked_step(at)
                made[given] = run.write_hook(path, at, given.place)
            elif verb == "parameter":
                made[given] = run.graph.parameter(*what)
            elif verb == "add":
                op, args, kwargs, facts = what
                node = run.write(op, _now(args, made),
                                 {k: _now(v, made) for k, v in kwargs.items()},
                                 **{k: _now(v, made) for k, v in facts.items()})
                made[given], node.place, node.refusal = node, given.place, given.refusal
            elif verb == "replace":
                made[given] = run.write_replace(*_now(what, made))
                made[given].place = given.place
            elif verb == "append":
                target, item = what
                target.take_again(run, item, made)
            else:
                iteration, recording = what
                iteration.replay(run, recording, made)
        return made


def _now(arg, made):
    """What has become of an event's argument."""
    if isinstance(arg, Node):
        return made.get(arg, arg)
    if isinstance(arg, (list, tuple)) and not isinstance(arg, Index):
        return type(arg)(_now(a, made) for a in arg)
    return arg
