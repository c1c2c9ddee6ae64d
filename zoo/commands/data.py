"""Make, unpack and check training and verification files.

  facezoo data align pictures/ --out faces/              the central face of each picture, aligned
  facezoo data pack faces.zip more/ --out DIR            DIR/train.rec, train.idx, property, in InsightFace's layout
  facezoo data pack faces.zip --out DIR --holdout 500    also DIR/val.bin and DIR/holdout, of 500 identities kept out
  facezoo data pack faces/ --out DIR --holdout 40 --pairs 400       from a small set
  facezoo data pairs lfw/ --out lfw.bin                  a verification .bin from a folder with pairs.txt
  facezoo data unpack DIR --out FOLDER                   back to images, in a folder for each identity
  facezoo data index train.rec                           rebuild train.idx
  facezoo data info PATH                                 counts, and a check that every image decodes
  facezoo data keypoints points.csv --plot figure4.png   LNRN's key-region box for a set of faces
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

from plugins.files import staged_files
from zoo.commands.options import number
from zoo.commands.recognition import add_detector_options
from zoo.progress import progress_bar


def configure(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest='verb', required=True, metavar='VERB')
    verb = verbs.add_parser('align', help='turn pictures, in a folder for each person, into aligned crops')
    verb.add_argument('source', metavar='SOURCE', help='folder, zip, or folder in a zip')
    verb.add_argument('--out', required=True, type=Path, metavar='FOLDER', help='for the crops, in a folder for each person')
    verb.add_argument('--size', type=number(int, 96), default=112, metavar='PIXELS',
                      help='side of the crops: 96, or a multiple of 112 or of 128')
    add_detector_options(verb)
    verb = verbs.add_parser('pack', help='turn folders or zips of identities into train.rec')
    verb.add_argument('sources', nargs='+', metavar='SOURCE', help='folder, zip, or folder in a zip (faces.zip/labelled)')
    verb.add_argument('--out', required=True, type=Path, metavar='FOLDER', help='for train.rec, train.idx and property')
    verb.add_argument('--unlabelled', action='append', default=[], metavar='SOURCE', help='faces of unknown identity')
    verb.add_argument('--min-quality', type=number(float, 0), metavar='Q',
                      help="images rated lower in the source's quality.csv count as faces of unknown identity")
    verb.add_argument('--holdout', type=number(int, 0), default=0, metavar='N',
                      help='keep N identities out, and make val.bin from them')
    verb.add_argument('--identities', type=number(int, 1), metavar='N',
                      help='train only on the N identities with the most images')
    verb.add_argument('--pairs', type=number(int, 1), metavar='N', help='pairs in val.bin, 6000 unless given')
    verb.add_argument('--seed', type=number(int, 0), metavar='N', help='seed for drawing identities and pairs, 0 unless given')
    verb = verbs.add_parser('pairs', help='turn a folder or zip with pairs.txt into a .bin')
    verb.add_argument('source', metavar='SOURCE', help='folder or zip of faces, with a folder for each person')
    verb.add_argument('--pairs', metavar='FILE', help='pairs.txt, when it is not in SOURCE')
    verb.add_argument('--out', required=True, type=Path, metavar='FILE', help='the .bin to write')
    verb = verbs.add_parser('unpack', help='turn train.rec or a .bin into a folder of images')
    verb.add_argument('source', metavar='SOURCE', help='.rec, its folder, or a .bin')
    verb.add_argument('--out', required=True, type=Path, metavar='FOLDER', help='for the images, in a folder for each identity')
    verb = verbs.add_parser('index', help='rebuild the .idx of a .rec')
    verb.add_argument('source', type=Path, metavar='FILE', help='the .rec; its .idx is written beside it')
    verb = verbs.add_parser('info', help='counts, and a check that every image decodes')
    verb.add_argument('source', metavar='SOURCE', help='folder of identities, zip, .rec or .bin')
    verb.add_argument('--json', action='store_true', help='print JSON instead of lines')
    verb = verbs.add_parser('keypoints', help="find LNRN's key-region box by K-means")
    verb.add_argument('source', type=Path, metavar='FILE', help='.npy (N, 5, 2), or .csv with a line x1,y1,...,x5,y5 for '
                                                                'each face, in pixels of its picture')
    verb.add_argument('--aligned', action='store_true', help='the points already lie in aligned 112x112 faces')
    verb.add_argument('--plot', type=Path, metavar='FILE', help="draw the scatter plot of the paper's figure 4 here")


def run(args: argparse.Namespace) -> None:
    {'align': _align, 'pack': _pack, 'pairs': _pairs, 'unpack': _unpack, 'index': _index, 'info': _info,
     'keypoints': _keypoints}[args.verb](args)


def _align(args: argparse.Namespace) -> None:
    from plugins.data.sources import TreeFaces
    from zoo.jetson.align import template
    from zoo.pipeline.crop import REPORT, align_folder
    from zoo.runtime.detector import open_detector
    template(args.size)  # a size that has none is refused before the work
    source = TreeFaces(args.source)
    detector = open_detector(args.detector, args.threads, threshold=args.score)
    with progress_bar(len(source), 'pictures', 'align') as bar:
        crops, left_out = align_folder(source, args.out, detector, args.size, bar.update)
    note = f'; {len(left_out)} pictures left out, see {args.out / REPORT}' if left_out else ''
    print(f'{args.out}: {crops} crops of {args.size}x{args.size}{note}')


def _pack(args: argparse.Namespace) -> None:
    from plugins.data import pack
    from plugins.data.sources import TreeFaces
    if not args.holdout and (args.pairs, args.seed) != (None, None):
        raise ValueError('--pairs and --seed say how val.bin is drawn from identities that are kept out: give --holdout N, too')
    if args.identities and args.unlabelled:
        raise ValueError('--identities keeps the largest identities only, and faces of --unlabelled have none: leave out one '
                         'option')
    if not args.holdout and (args.out / 'val.bin').exists():
        raise ValueError(f'{args.out}/val.bin: its persons, held out of an earlier training set here, would be trained on now; '
                         'give --holdout again, remove it with the folder holdout, or name a new folder')
    faces = pack.gather(map(TreeFaces, args.sources), map(TreeFaces, args.unlabelled), args.min_quality)
    held = pairs = []
    if args.holdout:
        faces, held = pack.split_identities(faces, args.holdout, args.seed or 0)
        pairs = pack.draw_pairs(held, args.pairs or 6000, seed=args.seed or 0)
    if args.identities:
        faces = pack.keep_identities(faces, args.identities)
    with staged_files(args.out) as out:  # a new val.bin beside an old training set could hold persons of both
        if held:
            pack.pack_verification(out / 'val.bin', pairs)
            pack.pack_records(out / 'holdout', held)
        with progress_bar(len(faces), 'images', 'pack') as bar:
            images, identities = pack.pack_records(out, faces, bar.update)
    print(f'{args.out}: {images} images, {identities} identities' + (f'; val.bin: {len(pairs)} pairs of {args.holdout} other '
                                                                     f'identities ({len(held)} images)' if held else ''))


def _pairs(args: argparse.Namespace) -> None:
    from plugins.data.verification import write_bin
    from zoo.evaluate.verification import load_verification_set
    data = load_verification_set(args.source, args.pairs)
    write_bin(args.out, [data.faces.read(int(i))[0] for i in data.pairs.ravel()], data.same)
    print(f'{args.out}: {len(data.same)} pairs, {int(data.same.sum())} of one person')


def _unpack(args: argparse.Namespace) -> None:
    from plugins.data.sources import open_faces
    from plugins.files import write_atomic
    source = open_faces(args.source)
    if args.out.is_dir() and any(args.out.iterdir()):  # another set's numbers stand for other persons
        raise ValueError(f'{args.out} is not empty, and would mix these images with what it holds; name a new folder')
    with progress_bar(len(source), 'images', 'unpack') as bar:
        for index in range(len(source)):
            data, label = source.read(index)
            suffix = '.png' if data[:4] == b'\x89PNG' else '.jpg'
            write_atomic(args.out / (f'{label:07d}' if label >= 0 else '') / f'{index:08d}{suffix}', data)
            bar.update(1)
    print(f'{args.out}: {len(source)} images')


def _index(args: argparse.Namespace) -> None:
    from plugins.data.recordio import rebuild_index
    print(f'{args.source.with_suffix(".idx")}: {rebuild_index(args.source)} records')


def _info(args: argparse.Namespace) -> None:
    from plugins.data.sources import open_faces
    from plugins.preprocess import decode_image
    source = open_faces(args.source)
    sizes, counts = Counter(), Counter()
    with progress_bar(len(source), 'images', 'check') as bar:
        for index in range(len(source)):
            data, label = source.read(index)
            height, width = decode_image(data, source.name(index)).shape[:2]
            sizes[f'{width}x{height}'] += 1
            counts[label] += 1
            bar.update(1)
    unknown = counts.pop(-1, 0)
    facts = {'images': len(source), 'identities': len(counts), 'num_classes': source.num_classes, 'unknown': unknown,
             'images_per_identity': [min(counts.values()), max(counts.values())] if counts else None, 'sizes': dict(sizes)}
    if args.json:
        print(json.dumps(facts, indent=2))
    else:
        for key, value in facts.items():
            print(f'{key}: {value}')


def _keypoints(args: argparse.Namespace) -> None:
    import numpy as np

    from plugins.data.keypoints import find_key_region, plot_key_region
    from zoo.jetson.align import map_points
    try:
        points = np.load(args.source) if args.source.suffix == '.npy' else np.loadtxt(args.source, delimiter=',', ndmin=2)
    except ValueError as error:
        raise ValueError(f'{args.source}: {error}') from None
    if points.shape[1:] not in ((5, 2), (10,)):  # with a score beside each they would be read as other points
        raise ValueError(f'{args.source}: {points.shape} numbers are not five points (x, y) a face: (N, 5, 2) or (N, 10)')
    points = points.reshape(-1, 5, 2)
    aligned = points if args.aligned else map_points(points)
    region = find_key_region(aligned)
    print(f'{args.source}: {len(points)} faces')
    for x, y in region.centres:
        print(f'  centre {x:.1f}, {y:.1f}')
    (x0, y0, x1, y1), box = region.bounds, region.box
    print(f'extremes [{x0}:{x1}, {y0}:{y1}] in x, y; lnrn takes it as --set "box={box}"')
    if args.plot:
        plot_key_region(aligned, region, args.plot)
