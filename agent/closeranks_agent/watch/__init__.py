"""Seeing changes as they happen: sources of hints, and the watcher that turns hints into looks.

| what is done                                      | where                                                     |
|---------------------------------------------------|-----------------------------------------------------------|
| what a source says, and the choice of one         | `events`, `source`; for doctors `examined`                |
| fanotify                                          | `fanotify`, its handles `handles`                         |
| inotify: reading and telling                      | `inotify`                                                 |
| ... its tree of watches: pure, and in the kernel  | `watched`, `watches`                                      |
| ... true to the disk, and to what is told         | `spread`, `moves`                                         |
| ... without watches where that is too dear        | `hushed`, `polled`                                        |
| what both read, and the kernel's calls            | `records`, `calls`                                        |
| from hints to looks                               | `watcher`, `bell`; `dirty`, `batch`, `looking`, `pacing`  |
| what is known for sure                            | `proof`                                                   |
| less is told, of some files                       | `muted`                                                   |
| ... of no writes                                  | `hush`; who writes `counters`, `holders`, `writing`       |
| ... but samples                                   | `sampling`; when `storm`, how much `flood`                |
| how much is written                               | `growth`                                                  |
"""
