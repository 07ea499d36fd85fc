"""What a worker process can import: the checks of `executor=`, and how a function is found again by its name.

Owns the rules. Promises: what could not be found in a worker process is refused at the registration, as far as that can be
known there, or at the start, when every name of a module is bound; the name leads to the function itself in every process
of the program, also of the file that was started (`python bank.py`).
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

from seqtor.messages.errors import RegistrationError, SeqtorError

__all__ = ["FunctionName", "NotFoundHere", "is_in_process", "require_executor", "require_found"]

EXECUTORS = ("thread", "process")


class NotFoundHere(SeqtorError):
    """A worker process has imported the program and does not find something in it."""

    code = "not_found_here"


class FunctionName(NamedTuple):
    """Where a function or a class is found: in a module, by a path of attributes."""

    module: str
    path: str

    def find(self) -> Any:
        """The function, its module imported if need be. Raises ImportError and AttributeError."""
        found: Any = importlib.import_module(self.module)
        for name in self.path.split("."):
            found = getattr(found, name)
        return found

    def require_here(self) -> None:
        """Raise NotFoundHere if this process does not find it, though its module has been imported."""
        try:
            self.find()
        except AttributeError:
            module = importlib.import_module(self.module)
            place = getattr(module, "__file__", None) or self.module
            raise NotFoundHere(
                f"has imported {place} and finds no {self.path} there: define it where importing the file defines it, at "
                "its top level and not under if __name__ == '__main__': or another condition"
            ) from None

    @classmethod
    def of(cls, function: Any) -> FunctionName:
        """What a function says that it is called."""
        return cls(function.__module__, function.__qualname__)

    def __str__(self) -> str:
        return f"{self.module}.{self.path}"


def is_in_process(executor: Any, function: Any, trigger_type: Any, *, is_async: bool) -> bool:
    """Whether the handler executes in worker processes; raises RegistrationError if it cannot as it is."""
    require_executor(executor, trigger_type)
    if executor == "thread":
        return False
    name = trigger_type.__name__
    if is_async:
        raise RegistrationError(
            f'the handler of {name} is a coroutine function, and executor="process" is for plain ones, which compute: '
            "declare it with def, or leave the option out and let it await on the event loop"
        )
    if os.name != "posix":
        raise RegistrationError(f'executor="process" of the handler of {name} needs POSIX: use executor="thread" here')
    _require_importable(function, f"the handler {_shown(function)}")
    _require_importable(trigger_type, f"the trigger type {_shown(trigger_type)}")
    return True


def require_executor(executor: Any, trigger_type: Any) -> None:
    """Raise RegistrationError for an executor that there is not."""
    if isinstance(executor, str) and executor in EXECUTORS:
        return
    if executor == "ray":
        raise RegistrationError(
            f'executor="ray" of the handler of {trigger_type.__name__} is not there yet: use executor="process", which '
            "takes the same handlers"
        )
    known = " or ".join(f'"{each}"' for each in EXECUTORS)
    raise RegistrationError(f"executor of the handler of {trigger_type.__name__} must be {known}, got {executor!r}")


def require_found(function: Any, trigger_type: Any) -> None:
    """Raise RegistrationError unless the name of a handler leads to it, now that its module has been executed."""
    name = FunctionName.of(function)
    try:
        found = name.find()
    except (ImportError, AttributeError) as error:
        found = error
    if found is not function:
        raise RegistrationError(
            f"the handler of {trigger_type.__name__} is to execute in worker processes, which find it by its name, and "
            f"{name} leads to {found!r}: give each such handler a name of its own, and put @system.on(...) above all other "
            "decorators"
        )


def _require_importable(thing: Any, what: str) -> None:
    """Raise RegistrationError for a function or class that other processes cannot import by its name."""
    module, path = getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(path, str):
        raise RegistrationError(
            f"{what} has no name by which a worker process could import it: define a function (def ...) at the top level of "
            "a module"
        )
    if path.rpartition(".")[2] == "<lambda>":
        raise RegistrationError(
            f"{what} is a lambda, and a worker process imports handlers by their names: define a function (def ...) at the "
            "top level of its module"
        )
    if "<locals>" in path:
        raise RegistrationError(
            f"{what} is defined inside of a function, so a worker process cannot import it: move it to the top level of its "
            'module, or use executor="thread"'
        )
    if module == "__main__":
        _require_importable_main(what)


def _require_importable_main(what: str) -> None:
    main = sys.modules["__main__"]
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    if spec is None and (file is None or not Path(file).exists()):
        raise RegistrationError(
            f"{what} is typed in, or given with python -c, so there is no file from which a worker process could import it: "
            "put it into a module and import that"
        )
    if spec is not None and spec.name.rpartition(".")[2] == "__main__":
        raise RegistrationError(
            f"{what} is defined in {spec.name}, which worker processes do not execute: move it to another module of the "
            "package and import that"
        )


def _shown(thing: Any) -> str:
    return getattr(thing, "__qualname__", None) or repr(thing)
