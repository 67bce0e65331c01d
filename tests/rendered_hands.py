"""Hands that were rendered instead of filmed: a right hand reaches out, closes, lifts a cup and carries it to the left.

The layouts are EgoDex's and VITRA's. The world's y is up; the camera's z looks ahead and its y points down.
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
from PIL import Image, ImageDraw
from recordings import write_film

from vlarig.policies.qwen_vla.poses import rotation_matrix
from vlarig.training.data.egocentric import Hand
from vlarig.training.data.egodex import FINGERS, JOINTS, flat_hand

#: MANO's axes in wrist frames; the two hands' differ, as ARKit's do.
AXES = {"left": np.diag([1.0, -1.0, -1.0]), "right": np.eye(3)}

#: Where the joints nearest to the palm are in MANO's axes of a right hand, in m; on a left one x is flipped.
KNUCKLES = {
    "IndexFinger": (-0.09, 0, 0.025),
    "MiddleFinger": (-0.095, 0, 0),
    "LittleFinger": (-0.075, -0.01, -0.045),
    "RingFinger": (-0.088, 0, -0.022),
    "Thumb": (-0.03, -0.01, 0.03),
}
BONES = (0.042, 0.028, 0.022)

#: Of the images, which are a quarter as large as EgoDex's (zhoush210/VITRA utils/data_utils.py@a24759a, Apple's own file).
WIDTH, HEIGHT, FOCAL = 480, 270, 736.6339 / 4

SKIN = {"left": (214, 163, 121), "right": (232, 186, 148)}


def camera() -> np.ndarray:
    """A head at 1.1 m that looks ahead, along -z, and 35 degrees down, ``[4, 4]``."""
    pose = np.eye(4)
    pose[:3, :3] = rotation_matrix(np.array([-0.6, 0, 0])) @ np.diag([1.0, -1.0, -1.0])
    pose[:3, 3] = (0, 1.1, 0)
    return pose


def grasp(frames: int = 75) -> dict[str, Hand]:
    """Both hands, palms down, fingers ahead. The left one sways; the right one moves ahead, closes, moves up, then to the left."""
    time = np.linspace(0, 4, frames)
    part = [np.clip(time - begin, 0, 1) for begin in range(4)]
    reach, close, lift, carry = ((1 - np.cos(np.pi * each)) / 2 for each in part)
    hands = {}
    for side, sign in (("left", -1), ("right", 1)):
        moves, sway = (1.0, 0.0) if side == "right" else (0.0, 0.01 * np.sin(3 * time))
        wrist = np.tile(np.eye(4), (frames, 1, 1))
        x, y = np.array([0, 0, 1.0]) * sign, np.array([0, 1.0, 0])
        wrist[:, :3, :3] = np.stack((x, y, np.cross(x, y)), axis=1)
        wrist[:, :3, :3] = wrist[:, :3, :3] @ rotation_matrix(np.outer(lift * moves, (0, 0, -0.3)))
        wrist[:, :3, 3] = np.array([0.16 * sign, 0.82, -0.25]) + moves * np.stack(
            (-0.2 * carry, 0.12 * lift, -0.12 * reach), axis=1
        )
        wrist[:, 0, 3] += sway
        joints = np.zeros((frames, 15, 3))
        joints[:, :12, 2] = (0.15 + 0.7 * close * moves + 5 * sway)[:, None]
        joints[:, 12, 0] = 0.6 * close * moves
        hands[side] = Hand(wrist, joints.reshape(-1, 45), np.ones(frames, bool))
    return hands


def joint_rotations(
    pose: np.ndarray, wrist: np.ndarray, axes: np.ndarray, side: str, rest: np.ndarray | None = None
) -> np.ndarray:
    """The inverse of egodex's ``joint_pose``: the rotations of the 15 joints' frames in the wrist's world, ``float64[T, 15, 3, 3]``."""
    flat = flat_hand() if rest is None else rest
    basis = axes @ np.diag([-1, 1, 1]) if side == "left" else axes
    turns = rotation_matrix(np.asarray(pose, np.float64).reshape(-1, 15, 3)) @ flat
    result = np.empty_like(turns)
    for index in range(15):
        first = index % 3 == 0
        turn = turns[:, index] if first else flat[index - 1].T @ turns[:, index]
        result[:, index] = (wrist if first else result[:, index - 1]) @ basis @ turn @ basis.T
    return result


def skeleton(hand: Hand, side: str) -> tuple[np.ndarray, np.ndarray]:
    """ARKit's frames of the wrist and of EgoDex's joints, each finger's with its tip, ``[T, 4, 4]`` and ``[T, 5, 4, 4, 4]``."""
    wrist = hand.wrist.copy()
    wrist[:, :3, :3] = hand.wrist[:, :3, :3] @ AXES[side].T
    turns = joint_rotations(hand.joints, wrist[:, :3, :3], AXES[side], side).reshape(-1, 5, 3, 3, 3)
    frames = np.tile(np.eye(4), (len(wrist), 5, 4, 1, 1))
    frames[..., :3, :3] = np.concatenate((turns, turns[:, :, -1:]), axis=2)
    flip = -1 if side == "left" else 1
    for finger, name in enumerate(FINGERS):
        place = hand.wrist[:, :3, 3] + hand.wrist[:, :3, :3] @ (np.array(KNUCKLES[name]) * (flip, 1, 1))
        for joint in range(4):
            frames[:, finger, joint, :3, 3] = place
            if joint < 3:
                place = place - flip * BONES[joint] * turns[:, finger, joint, :, 0]
    return wrist, frames


def write_egodex(path: Path, hands: dict[str, Hand], **attributes: str) -> None:
    """An episode in EgoDex's layout, without its video."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = len(hands["left"].wrist)
    with h5py.File(path.with_suffix(".hdf5"), "w") as file:
        file.attrs.update({"llm_type": "reset", "llm_description": "Stack the cups.", "llm_description2": "None"} | attributes)
        file["camera/intrinsic"] = np.array([[736.6339, 0, 960], [0, 736.6339, 540], [0, 0, 1]], np.float32)
        file["transforms/camera"] = np.tile(camera(), (frames, 1, 1)).astype(np.float32)
        for side, hand in hands.items():
            wrist, joints = skeleton(hand, side)
            file[f"transforms/{side}Hand"] = wrist.astype(np.float32)
            file[f"confidences/{side}Hand"] = np.where(hand.tracked, 0.9, 0.0).astype(np.float32)
            for number, joint in enumerate(JOINTS):
                file[f"transforms/{side}{joint}"] = joints[:, number // 3, number % 3].astype(np.float32)


def write_vitra(folder: Path, name: str, hands: dict[str, Hand], **changes: object) -> None:
    """An episode in VITRA's layout, without its video, which is ``kitchen``."""
    (folder / "episodic_annotations").mkdir(parents=True, exist_ok=True)
    frames = len(hands["left"].wrist)
    data: dict[str, object] = {
        "video_name": "kitchen",
        "video_decode_frame": np.arange(frames),
        "extrinsics": np.tile(np.linalg.inv(camera()), (frames, 1, 1)),
        "anno_type": "right",
        "text": {"left": [], "right": [("Carry the red cup to the left.", (0, frames))]},
    }
    for side, hand in hands.items():
        data[side] = {
            "global_orient_worldspace": hand.wrist[:, :3, :3],
            "transl_worldspace": hand.wrist[:, :3, 3],
            "hand_pose": rotation_matrix(hand.joints.reshape(-1, 15, 3)),
            "kept_frames": hand.tracked.astype(np.int64),
        }
    np.save(folder / "episodic_annotations" / f"{name}.npy", np.array(data | changes, dtype=object))


def render(hands: dict[str, Hand]) -> list[np.ndarray]:
    """The images, ``uint8[h, w, 3]`` each: a table, a cup that goes with the right hand once that has closed, and the hands."""
    eye = np.linalg.inv(camera())
    skeletons = {side: skeleton(hand, side) for side, hand in hands.items()}
    palm = hands["right"].wrist[:, :3, 3] + 0.09 * -hands["right"].wrist[:, :3, 0]
    closed = int(np.argmax(hands["right"].joints[:, 2] > 0.8))
    cup = palm - (0, 0.04, 0)
    cup[:closed] = cup[closed]

    def seen(points: np.ndarray) -> list[tuple[float, float]]:
        places = points @ eye[:3, :3].T + eye[:3, 3]
        return [(WIDTH / 2 + FOCAL * x / z, HEIGHT / 2 + FOCAL * y / z) for x, y, z in places.reshape(-1, 3)]

    images = []
    for frame in range(len(cup)):
        image = Image.new("RGB", (WIDTH, HEIGHT), (196, 205, 214))
        pen = ImageDraw.Draw(image)
        table = np.array([(-0.6, 0.72, -0.9), (0.6, 0.72, -0.9), (0.6, 0.72, -0.12), (-0.6, 0.72, -0.12)])
        pen.polygon(seen(table), fill=(146, 110, 82))
        (u, v), (side_u, _) = seen(np.stack((cup[frame], cup[frame] + (0.035, 0, 0))))
        size = side_u - u
        pen.ellipse((u - size, v - size, u + size, v + size), fill=(200, 40, 40))
        for side, (wrist, joints) in skeletons.items():
            for finger in range(5):
                line = seen(np.concatenate((wrist[frame, None, :3, 3], joints[frame, finger, :, :3, 3])))
                pen.line(line, fill=SKIN[side], width=9, joint="curve")
                pen.line(line, fill=(90, 50, 40), width=2)
        images.append(np.asarray(image))
    return images


def record_egodex(folder: Path) -> dict[str, Hand]:
    """EgoDex with one episode, ``carry/0``, and the hands in it."""
    hands = grasp()
    write_egodex(folder / "carry" / "0", hands, llm_description="Carry the red cup to the left.")
    write_film(folder / "carry" / "0.mp4", render(hands))
    return hands


def record_vitra(folder: Path, videos: Path) -> dict[str, Hand]:
    """VITRA with one episode, whose left hand is never seen, and the hands in it."""
    hands = grasp()
    hands["left"].tracked[:] = False
    write_vitra(folder, "Ego4D_kitchen_ep_000000", hands)
    write_film(videos / "kitchen.mp4", render(hands))
    return hands
