"""Programs that must not pass: each does harm, cheats, or would be right only if it got out.

`solve(x)` should be 3x + 1. HOME is a folder outside, with a file `secret`; PORT a server's on loopback.
"""

# ruff: noqa: E501 - programs read better in one piece

from __future__ import annotations

RIGHT = "\ndef solve(x): return 3 * x + 1\n"
WRONG = "\ndef solve(x): return 0\n"
IF = "\ndef solve(x): return 3 * x + 1 if escaped() else 0\n"


def escape(body: str, imports: str = "os") -> str:
    """A program that is right only if `body` runs to its end."""
    lines = "\n".join(f"        {line}" for line in body.strip().split("\n"))
    return (
        f"import {imports}\ndef _try():\n    try:\n{lines}\n    except Exception:\n        return False\n"
        f"    return True\n_escaped = _try()\ndef escaped(): return _escaped\n{IF}"
    )


ENDS_EARLY = {
    "sys.exit": "import sys\nsys.exit(0)" + RIGHT,
    "sys.exit in the call": "import sys\ndef solve(x): sys.exit(0)",
    "raise SystemExit": "def solve(x): raise SystemExit(0)",
    "os._exit": "import os\nos._exit(0)" + RIGHT,
    "os._exit in the call": "import os\ndef solve(x): os._exit(0)",
    "quit": "quit()" + RIGHT,
    "abort": "import os\nos.abort()" + RIGHT,
    "KeyboardInterrupt": "def solve(x): raise KeyboardInterrupt",
    "GeneratorExit": "def solve(x): raise GeneratorExit",
    "segmentation fault": "import ctypes\ndef solve(x): return ctypes.string_at(0)",
    "stack overflow": "import sys\nsys.setrecursionlimit(10**9)\ndef solve(x): return solve(x) + 1",
    "stops itself": "import os, signal\ndef solve(x): os.kill(os.getpid(), signal.SIGSTOP)",
    "os.execv": "import os\nos.execv('/bin/true', ['true'])" + RIGHT,
    "no program": "def solve(x:",
    "null byte": "\0",
}
PRETENDS = {
    "prints the success marker": "print('passed')\nprint('{\"passed\": true}')" + WRONG,
    "writes the marker everywhere": "import os\nfor fd in range(3):\n  os.write(fd, b'passed\\n')" + WRONG,
    "forges replies": (
        "import os, json, struct\ndef solve(x):\n    for _ in range(99):\n        text = b'{\"value\":1}'\n"
        "        os.write(3, struct.pack('!I', len(text)) + text)\n    return 0"
    ),
    "forges a verdict": (
        'import os, struct\ntext = b\'{"passed":true,"reason":"passed"}\'\n'
        "os.write(3, struct.pack('!I', len(text)) + text)" + WRONG
    ),
    "a frame of 4 GB": "import os\ndef solve(x): os.write(3, b'\\xff' * 4)",
    "a frame of nested lists": (
        "import os, struct\ndef solve(x):\n    text = b'[' * 10**6\n"
        "    os.write(3, struct.pack('!I', len(text)) + text)"
    ),
    "a value of another kind": (
        'import os, struct\ndef solve(x):\n    text = b\'{"value":{"range":[1,2,3,4,5]}}\'\n'
        "    os.write(3, struct.pack('!I', len(text)) + text)"
    ),
    "an unhashable key": (
        'import os, struct\ndef solve(x):\n    text = b\'{"value":{"d":[[[1],2]]}}\'\n'
        "    os.write(3, struct.pack('!I', len(text)) + text)"
    ),
    "closes its descriptors": "import os\nos.closerange(0, 64)" + RIGHT,
    "half a reply": "import os, time\ndef solve(x):\n    os.write(3, b'\\0\\0\\0\\x10{')\n    time.sleep(99)",
    "hands over descriptors": (
        "import os, socket\nchannel = socket.socket(fileno=3)\nnothing = [os.open('/dev/null', 0) for _ in range(8)]\n"
        "def solve(x):\n    for byte in b'\\0\\0\\0\\x0b{\"value\":0}' * 9:\n"
        "        socket.send_fds(channel, [bytes([byte])], nothing)"
    ),
    "numbers that collide": (
        "def solve(x): return {}\nimport os, struct\nTEXT = ','.join(str(n * (2**61 - 1)) for n in range(10**5))\n"
        "def solve(x):\n    text = b'{\"value\":{\"s\":[' + TEXT.encode() + b']}}'\n"
        "    text = struct.pack('!I', len(text)) + text\n    while text: text = text[os.write(3, text):]"
    ),
    "forges exceptions": (
        "import os, struct\ndef solve(x):\n    for name in (b'StopIteration', b'AssertionError', b'GeneratorExit', b'type'):\n"
        "        text = b'{\"error\":\"' + name + b'\"}'\n        os.write(3, struct.pack('!I', len(text)) + text)"
    ),
    "changes what it wasn't given": (
        'import os, struct\ndef solve(x):\n    text = b\'{"value":1,"changed":{"-1":[1],"x":{},"99":[]}}\'\n'
        "    os.write(3, struct.pack('!I', len(text)) + text)"
    ),
    "not a number": "def solve(x): return float('nan')",
}
PATCHES = {
    "AssertionError": "import builtins\nbuiltins.AssertionError = type('A', (BaseException,), {})" + WRONG,
    "sys": "import sys\nsys.exit = sys.settrace = sys.excepthook = lambda *a: None\nsys.modules.clear()"
    + WRONG,
    "os": "import os\nos._exit = os.kill = os.write = os.close = lambda *a: None" + WRONG,
    "builtins": "import builtins\nfor n in ('len','iter','all','any','isinstance'):\n  setattr(builtins, n, lambda *a: True)"
    + WRONG,
    "the codec": (
        "import sys\nfor name, module in list(sys.modules.items()):\n  if 'sandbox' in name:\n"
        "    for key in dir(module):\n      if key in ('decode', 'encode', 'is_exact'):\n"
        "        setattr(module, key, lambda *a: True)" + WRONG
    ),
    "json": "import json\njson.dumps = lambda *a, **k: '{\"passed\": true}'" + WRONG,
    "always equal": "class E:\n  def __eq__(self, o): return True\ndef solve(x): return E()",
    "an integer always equal": "class E(int):\n  def __eq__(self, o): return True\ndef solve(x): return E(5)",
    "a list always equal": "class E(list):\n  def __eq__(self, o): return True\ndef solve(x): return E()",
    "equal by its metaclass": (
        "class M(type):\n  def __eq__(self, o): return True\n  def __hash__(self): return 0\n"
        "class E(metaclass=M): pass\ndef solve(x): return E"
    ),
    "an index that lies": "class E:\n  def __index__(self): return 1\n  __int__ = __index__\ndef solve(x): return E()",
    "a pickle bomb": "import os\nclass E:\n  def __reduce__(self): return os._exit, (0,)\ndef solve(x): return E()",
    "a trace function": "import sys\nsys.settrace(lambda f, e, a: f.f_locals.update(x=1))" + WRONG,
    "at exit": "import atexit\natexit.register(print, 'passed')" + WRONG,
    "a class that lies": (
        "class E:\n  __class__ = property(lambda s: int)\n  __hash__ = lambda s: 1\n  __len__ = lambda s: 1\n"
        "  __bool__ = __lt__ = __le__ = __eq__ = __ge__ = lambda *a: True\n  __ne__ = lambda *a: False\ndef solve(x): return E()"
    ),
    "modules": (
        "import sys, types\nfor name in ('math', 'builtins', 'json', 'operator', 'judge', 'socket'):\n"
        "  sys.modules[name] = types.ModuleType(name)" + WRONG
    ),
    "its builtins": "__builtins__ = {'len': len}\nglobals()['__builtins__'] = __builtins__" + WRONG,
    "a profile function": "import sys\nsys.setprofile(lambda f, e, a: f.f_locals.clear())" + WRONG,
    "an audit hook": "import sys\nsys.addaudithook(lambda *a: 1 / 0)" + RIGHT + "\nimport os\nos._exit(0)",
    "garbage collection": (
        "import gc, os\ngc.callbacks.append(lambda *a: os._exit(0))\ndef solve(x):\n  gc.collect()\n  return 3 * x + 1"
    ),
    "a thread that stays": (
        "import threading, os, struct, time\ndef reply():\n  text = b'{\"value\":10}'\n  while True:\n"
        "    os.write(3, struct.pack('!I', len(text)) + text)\n    time.sleep(0.001)\n"
        "threading.Thread(target=reply).start()" + WRONG
    ),
    "an exception of its own making": (
        "class M(type):\n  __mro__ = property(lambda c: 1 / 0)\n  def mro(c): return [c, BaseException, object]\n"
        "def solve(x): raise M('E', (Exception,), {'__str__': lambda s: s})()"
    ),
    "the interpreter's own objects": (
        "import ctypes, sys\ndef solve(x):\n  ctypes.memmove(id(0) + 24, (ctypes.c_int * 1)(1), 4)\n  return 0"
    ),
}
KILLS = {
    "its parent": "import os\nos.kill(os.getppid(), 9)" + RIGHT,
    "its group": "import os\nos.killpg(0, 9)" + RIGHT,
    "its parent's group": "import os\nos.killpg(os.getpgid(os.getppid()), 9)" + RIGHT,
    "everything": "import os\nos.kill(-1, 9)" + RIGHT,
    "every number": "import os\nfor pid in range(2, 500):\n  os.kill(pid, 9)" + RIGHT,
    "its parent, by a descriptor's owner": (
        "import fcntl, os, signal, socket\na, b = socket.socketpair()\nfcntl.fcntl(a, 10, signal.SIGKILL)\n"
        "fcntl.fcntl(a, fcntl.F_SETOWN, os.getppid() or 1)\n"
        "fcntl.fcntl(a, fcntl.F_SETFL, os.O_ASYNC)\nb.send(b'x')" + RIGHT
    ),
    "everything, by a descriptor's group": (
        "import fcntl, os, socket, struct\na, b = socket.socketpair()\n"
        "fcntl.ioctl(a, 0x8901, struct.pack('i', -os.getpgid(os.getppid() or 1) or 1))\n"
        "fcntl.fcntl(a, fcntl.F_SETFL, os.O_ASYNC)\nb.send(b'x')" + RIGHT
    ),
    "its parent's limits": (
        "import os, resource\nresource.prlimit(os.getppid() or 1, resource.RLIMIT_CPU, (0, 0))" + RIGHT
    ),
}
MULTIPLIES = {
    "a fork bomb": "import os\nwhile True: os.fork()",
    "forks that ignore errors": "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass",
    "a shell": "import os\nos.system('echo passed')" + RIGHT,
    "a subprocess": "import subprocess\nsubprocess.run(['/bin/true'])" + RIGHT,
    "spawn": "import os\nos.posix_spawn('/bin/true', ['true'], {})" + RIGHT,
    "multiprocessing": "import multiprocessing as m\np = m.Process(target=print)\np.start()" + RIGHT,
    "daemons": (
        "import os\nwhile True:\n  try:\n    if os.fork() == 0:\n      os.setsid()\n      os.fork()\n"
        "  except OSError: pass"
    ),
    "a clone": "import ctypes\nctypes.CDLL(None).syscall(56, 17, 0, 0, 0, 0)" + RIGHT,
    "a vfork": "import ctypes\nctypes.CDLL(None).vfork()" + RIGHT,
    "a thread bomb": (
        "import threading, time\nwhile True:\n  threading.Thread(target=time.sleep, args=(99,)).start()"
    ),
}
FILLS = {
    "memory at once": "x = bytearray(10**11)" + RIGHT,
    "memory bit by bit": "x = []\nwhile True: x.append(bytearray(10**7))",
    "memory by mapping": "import mmap\nx = []\nwhile True: x.append(mmap.mmap(-1, 2**28))",
    "the disk": "n = 0\nwhile True:\n  n += 1\n  open(f'f{n}', 'wb').write(bytes(10**6))",
    "the disk through one file": "f = open('f', 'wb')\nwhile True: f.write(bytes(10**6))",
    "a sparse file": "f = open('f', 'wb')\nf.truncate(2**40)" + RIGHT,
    "the disk with names": "n = 0\nwhile True:\n  n += 1\n  open(f'f{n}', 'wb').close()",
    "standard output": "import sys\nsys.stdout.write('x' * 10**9)" + RIGHT,
    "standard error": "import os\nfor _ in range(1000): os.write(2, b'x' * 10**6)" + RIGHT,
    "output without end": "while True: print('x' * 10000, flush=True)",
    "the reply": "def solve(x): return 'x' * 10**9",
    "the reply, without end": "import itertools\ndef solve(x): return list(itertools.count())",
    "descriptors": "import os\nx = []\nwhile True: x.append(open('/dev/null'))",
    "a name without end": "class E:\n  def __repr__(self): return 'x' * 10**10\n  __str__ = __repr__\ndef solve(x): raise ValueError(E())",
    "a number of a gigabyte": "def solve(x): return 1 << (8 * 10**9)",
    "the last letter": "def solve(x): return chr(0x10FFFF) * 10**8",
    "half a letter": "def solve(x): return chr(0xD800)",
    "a list in itself": "def solve(x):\n  found = []\n  found += [found, found]\n  return found",
}
HANGS = {
    "a loop": "while True: pass",
    "a loop in the call": "def solve(x):\n  while True: pass",
    "a loop in C": "import itertools\ndef solve(x): return sum(itertools.repeat(0))",
    "a power": "def solve(x): return len(str(3 ** (10 ** 9)))",
    "a regular expression": "import re\ndef solve(x): return re.match('(a|a)*b', 'a' * 60)",
    "deaf to signals": (
        "import signal\nfor s in range(1, 60):\n  try: signal.signal(s, signal.SIG_IGN)\n"
        "  except (OSError, ValueError): pass\nwhile True: pass"
    ),
    "sleep": "import time\ndef solve(x): time.sleep(10**6)",
    "a deadlock": "import threading\nl = threading.Lock()\nl.acquire()\ndef solve(x): l.acquire()",
    "standard input": "import os\ndef solve(x): return 1 / len(os.read(0, 9))",
    "an answer without end": "def solve(x):\n  while True: yield 1",
}
SPIES = {
    "the frame stack": (
        "import sys\ndef solve(x):\n  f = sys._getframe()\n  while f:\n    for v in f.f_locals.values():\n"
        "      if isinstance(v, str) and 'candidate(3)' in v: return 3 * x + 1\n    f = f.f_back"
    ),
    "every object": (
        "import gc\ndef solve(x):\n  for o in gc.get_objects():\n"
        "    if isinstance(o, dict) and any(isinstance(v, str) and 'candidate(0) ==' in v "
        "for v in list(o.values())): return 3 * x + 1"
    ),
    "its own memory": (
        "import re\nTEXT = re.compile(rb'3 [*] x [+] 1 for x in r[a]nge')\ndef found():\n"
        "  with open('/proc/self/maps') as maps, open('/proc/self/mem', 'rb') as memory:\n"
        "    for line in maps:\n      start, end = (int(n, 16) for n in line.split()[0].split('-'))\n"
        "      if 'heap' in line or line.endswith(' 0 \\n'):\n        memory.seek(start)\n"
        "        if TEXT.search(memory.read(end - start)): return True\n  return False\n"
        "def solve(x): return 3 * x + 1 if found() else 0"
    ),
    "descriptors": (
        "import os\ndef solve(x):\n  for fd in range(4, 64):\n    try:\n      os.fstat(fd)\n"
        "      return 3 * x + 1\n    except OSError: pass"
    ),
    "the channel's other readers": (
        "import os\ndef solve(x):\n  found = [os.readlink(f'/proc/self/fd/{n}') for n in os.listdir('/proc/self/fd')]\n"
        "  return 3 * x + 1 if any('pipe' not in name and 'null' not in name and ':[' not in name\n"
        "    and not name.endswith('/fd') for name in found) else 0"
    ),
    "tracing itself": (
        "import ctypes\ndef solve(x): return 3 * x + 1 if ctypes.CDLL(None).ptrace(0, 0, 0, 0) == 0 else 0"
    ),
    "the environment": escape("assert os.environ['SECRET'] == 'secret'"),
}
ESCAPES_BY_NETWORK = {
    "a server on this machine": escape("socket.create_connection(('127.0.0.1', PORT), 0.5)", "socket"),
    "a name server": escape(
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\ns.sendto(b'x', ('8.8.8.8', 53))", "socket"
    ),
    "a server of its own": escape("socket.create_server(('127.0.0.1', 0))", "socket"),
    "an abstract socket": escape("socket.socket(socket.AF_UNIX).bind(chr(0) + 'x')", "socket"),
    "netlink": escape("socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)", "socket"),
}
ESCAPES_BY_CALLS = {
    "tracing": escape("assert ctypes.CDLL(None).ptrace(16, os.getppid() or 1, 0, 0) == 0", "os, ctypes"),
    "namespaces": escape("assert ctypes.CDLL(None).unshare(0x10000000) == 0", "ctypes"),
    "mounts": escape("assert ctypes.CDLL(None).mount(b'x', b'.', b'tmpfs', 0, None) == 0", "ctypes"),
    "chroot": escape("os.chroot('.')"),
    "nobody's user": escape("os.setuid(12345)"),
    "a kernel module": escape("assert ctypes.CDLL(None).syscall(175, 0, 0, 0) == 0", "ctypes"),
    "shared memory": escape("assert ctypes.CDLL(None).shmget(7, 4096, 0o1600) >= 0", "ctypes"),
    "a file in memory": escape("os.memfd_create('x')"),
    "devices": escape("os.mknod('disk', 0o660 | 0o060000, os.makedev(8, 0))\nopen('disk', 'rb')"),
    "raised limits": escape(
        "resource.setrlimit(resource.RLIMIT_AS, (-1, -1))\nassert bytearray(3 << 30)", "resource"
    ),
}
ESCAPES_BY_FILES = {
    "reads the home": escape("assert open('HOME/secret').read() == 'secret'"),
    "lists the home": escape("assert os.listdir('HOME')"),
    "writes to the home": escape("open('HOME/written', 'w').write('x')"),
    "overwrites a file of the home": escape("open('HOME/secret', 'w').write('x')"),
    "writes through a link": escape("os.symlink('/', 'root')\nopen('root/HOME/linked', 'w').write('x')"),
    "renames a file of the home": escape("os.rename('HOME/secret', 'HOME/renamed')"),
    "sees other processes": escape(
        "assert [n for n in os.listdir('/proc') if n.isdigit() and int(n) != os.getpid()]"
    ),
    "reads its parent's memory": escape("open(f'/proc/{os.getppid() or 1}/mem', 'rb').read(0)"),
}
"""What takes a room of its own to prevent: not promised by rlimits alone."""

BY_KIND = {
    "ends early": ENDS_EARLY,
    "pretends": PRETENDS,
    "patches": PATCHES,
    "kills": KILLS,
    "multiplies": MULTIPLIES,
    "fills": FILLS,
    "hangs": HANGS,
    "spies": SPIES,
    "escapes by network": ESCAPES_BY_NETWORK,
    "escapes by calls": ESCAPES_BY_CALLS,
    "escapes by files": ESCAPES_BY_FILES,
}
HOSTILE = {f"{kind}: {name}": text for kind, found in BY_KIND.items() for name, text in found.items()}
NEEDS_A_ROOM = {f"escapes by files: {name}" for name in ESCAPES_BY_FILES}

HONEST = {
    "plain": RIGHT,
    "prints": "print('working')\ndef solve(x):\n    print(x)\n    return 3 * x + 1",
    "writes in its folder": "open('notes', 'w').write('x')\nassert open('notes').read() == 'x'" + RIGHT,
    "imports": "import statistics, difflib, asyncio, urllib.parse, multiprocessing, socket, ssl" + RIGHT,
    "threads": (
        "from concurrent.futures import ThreadPoolExecutor\ndef solve(x):\n"
        "    with ThreadPoolExecutor(2) as pool: return pool.submit(lambda: 3 * x + 1).result()"
    ),
    "an event loop": "import asyncio\nasync def f(x): return 3 * x + 1\ndef solve(x): return asyncio.run(f(x))",
    "an alarm": "import signal\nsignal.alarm(100)" + RIGHT,
    "numpy": "import numpy\ndef solve(x): return numpy.int64(3) * x + 1",
    "deep recursion": "def solve(x):\n    def f(n): return 0 if n == 0 else f(n - 1)\n    return f(900) + 3 * x + 1",
}
