"""Parameters, multiply-accumulates (MACs) and feature-map output of a backbone, in every convention that papers use.

  facezoo profile fdfacenet
  facezoo profile nfacenet --width 0.75 --input 96x96 --num-features 128 --layers
"""

from __future__ import annotations

import argparse
import json

from zoo.commands.options import add_backbone_options, backbone_options
from zoo.tables import format_table


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('name', metavar='BACKBONE', help='a recogniser of `facezoo list`, or a backbone of your own')
    add_backbone_options(parser)
    parser.add_argument('--layers', action='store_true', help='print every layer as well')
    parser.add_argument('--json', action='store_true', help='print JSON instead of a table')


def run(args: argparse.Namespace) -> None:
    import zoo
    from plugins.registry import list_detectors
    if args.name in list_detectors():
        raise ValueError(f'{args.name} is a detector, and profile counts recognisers; `facezoo info {args.name}` has its size')
    result = zoo.profile(zoo.create(args.name, **backbone_options(args)))
    if args.json:
        print(json.dumps(result.to_dict(args.layers), indent=2))
        return
    if args.layers:
        print(format_table(['layer', 'kind', 'output', 'params', 'macs M', 'paper M', 'torchinfo M', 'thop M', 'F paper kB',
                            'table2 kB', 'fused kB'],
                           [[layer.name, layer.kind, 'x'.join(map(str, layer.output)), layer.params, layer.macs / 1e6,
                             layer.macs_paper / 1e6, layer.macs_torchinfo / 1e6, layer.macs_thop / 1e6, layer.bytes_paper / 1e3,
                             layer.bytes_table2 / 1e3, layer.bytes_fused / 1e3] for layer in result.layers]), end='\n\n')
    height, width = result.input_size
    print(f'{args.name} at {height}x{width}\n')
    print(format_table(['figure', 'value', 'convention'], [
        ['params', f'{result.params / 1e6:.4f} M', ''],
        ['macs', f'{result.macs / 1e6:.2f} M', 'pure multiply-accumulates'],
        ['macs_paper', f'{result.macs_paper / 1e6:.2f} M', 'with bias, norm, activation, pooling (ptflops 0.6; paper 001)'],
        ['macs_torchinfo', f'{result.macs_torchinfo / 1e6:.2f} M', 'torchinfo mult-adds'],
        ['macs_thop', f'{result.macs_thop / 1e6:.2f} M', "thop's old table (paper 001, Table 6)"],
        ['feature_map_mb_paper', f'{result.feature_map_mb_paper:.3f} MB', 'torchinfo forward/backward size (paper 001)'],
        ['feature_map_mb_table2', f'{result.feature_map_mb_table2:.3f} MB', "4 bytes, convolutions only (paper 001's Table 2)"],
        ['feature_map_mb_fused', f'{result.feature_map_mb_fused:.3f} MB', 'as feature_map_mb_paper, with BatchNorm folded'],
    ]))
