module kernelsearch.dev/dev/cluster/modules/pause

go 1.26.0
