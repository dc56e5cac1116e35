"""What the scripts are assembled from, in rooms on three floors; a room imports lower floors only, never its own.

    3  pruning (learning, search)    deploy (latency, learning)    comparison (latency, learning, search)
    2  latency                       learning                      search
    1  common                        imports model/ only
"""
