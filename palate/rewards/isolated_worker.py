"""The far side of `isolated.py`: loads one function and answers calls until the line is closed.

It is run by path, with the descriptors of the line and of the file for its last words as arguments, and imports no
torch.
"""

import faulthandler
import pickle
import sys
from multiprocessing.connection import Connection
from typing import Any


def main() -> None:
    """Answers every question on the line; ends itself when one takes too long."""
    line, last_words = Connection(int(sys.argv[-2])), int(sys.argv[-1])
    sys.path[:], specification, seconds = pickle.loads(line.recv_bytes())
    function = None
    while True:
        try:
            arguments, named = pickle.loads(line.recv_bytes())
        except EOFError:  # whoever asked is gone
            return
        faulthandler.dump_traceback_later(seconds, exit=True, file=last_words)
        try:
            if function is None:
                function = loaded(specification)
            reply = pickled(function(*arguments, **named))
        except Exception as error:
            reply = pickle.dumps(("raised", f"raised {type(error).__name__}: {error}"))
        faulthandler.cancel_dump_traceback_later()
        line.send_bytes(reply)


def loaded(specification: str) -> Any:
    """The function that `file.py:name` names."""
    from palate.settings import load_symbol  # here, as sys.path has only just been set

    return load_symbol(specification, "reward")


def pickled(value: Any) -> bytes:
    """A returned value as bytes; a generator as the list that it makes."""
    try:
        return pickle.dumps(("returned", value))
    except Exception:
        return pickle.dumps(("returned", list(value)))


if __name__ == "__main__":
    main()
