"""The program: `python -m eco2`, and the script `eco2`.

A process that decodes pictures runs this file again, under another name: it imports nothing for that.
"""


def main() -> None:
    """Runs the command line."""
    from eco2.cli import main as run

    run()


if __name__ == "__main__":
    main()
