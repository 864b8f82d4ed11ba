"""A store to a number: train a head from three seeds, test it at one and at five shots.

    python examples/store_to_number.py ssv2.zarr --split ssv2-cmn --head trx

The same as `fsar-train-head` and `fsar-eval-head`, for those who go on in Python. Runs and results stay in `runs/`; an
interrupted run goes on when the line is given again.
"""

import argparse

import fsar


def main() -> None:
    """Print a table, and the one number of it that papers quote."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", help="NAME.zarr, NAME.h5, or an address")
    parser.add_argument("--split", help="name of a split; without it the parts recorded in the store")
    parser.add_argument("--head", default="otam", choices=fsar.list_heads())
    parser.add_argument("--way", type=int, default=5)
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 5])
    parser.add_argument("--steps", type=int, help="of training; without it those of the recipe")
    parser.add_argument("--episodes", type=int, default=10_000)
    arguments = parser.parse_args()

    store = fsar.open_store(arguments.store)
    run = fsar.train_head(
        arguments.head,
        store,
        split=arguments.split,
        way=arguments.way,
        shot=arguments.shots[0],
        seeds=[0, 1, 2],
        steps=arguments.steps,
        test=False,  # the test comes below, for all shots at once
    )
    result = fsar.evaluate(run, store, way=arguments.way, shots=arguments.shots, episodes=arguments.episodes)
    print(result.table())
    for shot in arguments.shots:
        accuracy, half_width = result.accuracy[shot], result.ci95[shot]
        print(f"{arguments.way}-way {shot}-shot, mean of {len(run.folders)} seeds: {accuracy:.2%} ± {half_width:.2%}")


if __name__ == "__main__":
    main()
