"""Where the command starts: ``python -m mcuprune`` is ``mcuprune``."""

import gc
import os
import sys


def main() -> int:
    """``cli.main``, interrupted or broken or not from the first import on."""
    try:
        code = _started()
    except KeyboardInterrupt:
        code = 130
    except BaseException:  # an installation so broken that not even this module's neighbours can be imported
        import traceback

        traceback.print_exc()
        code = 2
    if code == 130:  # an interrupt inside an import leaves a mark, for which Python would exit by a signal
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        os._exit(code)
    return code


def _started() -> int:
    from mcuprune import console

    console.reserve_streams()
    console.end_with_parent()
    with console.interruptible():
        # What imports make stays to the end: looking for garbage in it would take a tenth of the start, and again later.
        gc.disable()
        try:
            from mcuprune import cli
        except KeyboardInterrupt:
            console.say("interrupted")
            return console.INTERRUPTED
        except BaseException as error:
            kind, message = console.bug(error)
            if {("json", ""), ("json", "-")} & console.asked_formats(sys.argv[1:]):
                console.answer(console.json_error(kind, message))
            return console.NO_ANSWER
        gc.freeze()
        gc.enable()
        return cli.main()


if __name__ == "__main__":
    sys.exit(main())
