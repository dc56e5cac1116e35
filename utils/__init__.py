"""The code behind the scripts, in rooms on three floors. A room imports rooms of lower floors only: see the brackets.

    3  pruning (learning, search)    deploy (latency, learning)    comparison (latency, learning, search)
    2  latency                       learning                      search
    1  common                        imports model/ only
"""
