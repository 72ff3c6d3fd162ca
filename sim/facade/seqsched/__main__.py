"""`python -m seqsched`: the `seqsched` command."""

from sim.cli import main

if __name__ == "__main__":
    main()
