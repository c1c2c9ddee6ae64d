"""What this machine is and how fast it is set to run: part of every engine's key and of every measurement."""

import glob
import os
import subprocess

__all__ = ['clocks', 'describe', 'power_mode']


def describe(trt, cuda):
    """``tensorrt``, ``compute_capability``, ``device`` and ``system`` of this machine, as strings."""
    return {'tensorrt': trt.__version__, 'compute_capability': cuda.compute_capability, 'device': _device_name(),
            'system': _first_line('/etc/nv_tegra_release') or _first_line('/etc/os-release')}


def power_mode():
    """What ``nvpmodel -q`` says, or an empty string where there is none (or it needs root)."""
    return ' '.join(_run(['nvpmodel', '-q']).split())


def clocks():
    """Current frequencies in MHz by name, and temperatures in degrees Celsius, as far as the system shows them."""
    found = {}
    for pattern, label, scale in (('/sys/devices/system/cpu/cpu*/cpufreq/scaling_cur_freq', 'cpu', 1e3),
                                  ('/sys/class/devfreq/*gp*/cur_freq', 'gpu', 1e6),  # TX2 gp10b, Nano and JetPack 6 .gpu
                                  ('/sys/class/devfreq/*.g[av]1*b/cur_freq', 'gpu', 1e6),  # Xavier gv11b, Orin ga10b
                                  ('/sys/class/thermal/thermal_zone*/temp', 'temperature', 1e3)):
        # the PMIC's zone is a dummy that always says 100 degrees, and a sensor that is off says less than 0
        paths = [path for path in sorted(glob.glob(pattern))
                 if not _first_line(os.path.join(os.path.dirname(path), 'type')).startswith('PMIC')]
        values = [int(text) / scale for text in map(_first_line, paths) if text.isdigit()]
        if values:
            found[label] = max(values)
    return found


def _device_name():
    return _first_line('/proc/device-tree/model').strip('\0') or _run(
        ['nvidia-smi', '--query-gpu=name', '--format=csv,noheader']).strip().split('\n')[0] or os.uname().machine


def _first_line(path):
    try:
        with open(path, errors='replace') as file:
            return file.readline().strip()
    except OSError:
        return ''


def _run(command):
    try:
        return subprocess.check_output(command, stderr=subprocess.DEVNULL, timeout=10).decode(errors='replace')
    except (OSError, subprocess.SubprocessError):
        return ''
