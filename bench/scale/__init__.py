"""The tree and the coordinator at scale, with generated trees and agents that speak the real protocol.

A file system with sixteen million files, or a machine for each of a thousand nodes, is not needed to ask what
the coordinator costs: it meets nothing of an agent but its session. So load processes hold generated trees in
memory and speak for many nodes each, through the real messages over real WebSockets.
"""
