"""Build the mini base from icon sets: `python sample_data/mini-sd/recipe/build.py [STAGE ...]
--work FOLDER`. Run again, it goes on.

Stages: `autoencoder`, `painter` (text encoder and UNet), `publish` (fp16 diffusers folder into
sample_data/mini-sd).
"""

from __future__ import annotations

import argparse
import os
import socket
from pathlib import Path

HERE = Path(__file__).resolve().parent


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "stages",
        nargs="*",
        default=["autoencoder", "painter", "publish"],
        help="what to do, in this order",
    )
    parser.add_argument(
        "--work", type=Path, default=Path("work/mini"), help="packages, pictures and training state"
    )
    parser.add_argument(
        "--out", type=Path, default=HERE.parent, help="where publish writes the diffusers folder"
    )
    parser.add_argument(
        "--start", type=Path, help="a published base to go on from, where --work holds no state"
    )
    parser.add_argument("--autoencoder-steps", type=int, default=12_000)
    parser.add_argument("--painter-steps", type=int, default=20_000)
    parser.add_argument(
        "--streams",
        type=int,
        default=os.cpu_count() or 1,
        help="processes with one thread each (CPU)",
    )
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


def work(rank: int, args: argparse.Namespace, port: int) -> None:
    import torch

    if args.streams > 1:
        import torch.distributed as dist

        torch.set_num_threads(1)
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        dist.init_process_group(
            "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=args.streams
        )
    import autoencoder
    import lessons
    import painter

    for stage in args.stages:
        if stage == "autoencoder":
            pictures, held_out = lessons.for_autoencoder(args.work / "npm")
            autoencoder.train(
                pictures,
                held_out,
                args.work / "autoencoder",
                steps=args.autoencoder_steps,
                device=args.device,
            )
        elif stage == "painter":
            painter.train(
                lessons.for_painter(args.work / "npm"),
                args.work,
                steps=args.painter_steps,
                device=args.device,
                start=args.start,
            )
        elif stage == "publish" and rank == 0:
            painter.publish(args.work / "painter" / "model", args.out)


def main() -> None:
    args = arguments()
    if args.device != "cpu":
        args.streams = 1
    if args.streams == 1:
        return work(0, args, 0)
    import icons
    import torch.multiprocessing as mp

    for icon_set in icons.SETS.values():
        icons.pictures(icon_set, args.work / "npm")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(work, (args, port), nprocs=args.streams)


if __name__ == "__main__":
    main()
