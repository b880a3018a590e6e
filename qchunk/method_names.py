"""The names of methods. No jax here, as in ``names``. A test checks that the table is true."""

from __future__ import annotations

from qchunk.system.loading import Entry

ALGORITHMS = {
    "bc": Entry("qchunk.algorithms.bc:bc", "behaviour cloning of chunks: flow, diffusion, Gaussians or regression"),
    "qc": Entry("qchunk.algorithms.qc:qc", "Q-chunking: best of N flow chunks by a chunk critic (2507.07969)"),
    "distil": Entry(
        "qchunk.algorithms.distil:distil",
        "an actor of one or a few steps learns what the frozen prior of an earlier run generates",
    ),
    "qc-fql": Entry(
        "qchunk.algorithms.qc_fql:qc_fql", "a one-step actor, distilled from a flow, climbs a chunk critic (2507.07969)"
    ),
    "ifql": Entry("qchunk.algorithms.ifql:ifql", "best of N flow chunks by an IQL critic (2304.10573)"),
    "iql": Entry("qchunk.algorithms.iql:iql", "clones the data's better chunks, by their advantage (2110.06169)"),
    "rebrac": Entry(
        "qchunk.algorithms.rebrac:rebrac", "a deterministic actor climbs a critic, and clones (2305.09836)"
    ),
    "fbrac": Entry(
        "qchunk.algorithms.fbrac:fbrac", "a flow clones, and climbs a critic through its steps (2601.14234)"
    ),
    "fawac": Entry("qchunk.algorithms.fawac:fawac", "a flow clones chunks weighted by their advantage (2601.14234)"),
    "fedit": Entry("qchunk.algorithms.fedit:fedit", "an actor edits the chunks of a cloned flow (2601.14234)"),
    "dsrl": Entry("qchunk.algorithms.dsrl:dsrl", "soft actor-critic over the noise a flow starts from (2506.15799)"),
    "cgql": Entry(
        "qchunk.algorithms.cgql:cgql", "a flow denoises along its own velocity and the critic's (2601.14234)"
    ),
    "qam": Entry("qchunk.algorithms.qam:qam", "adjoint matching: a flow learns the data's times exp(Q) (2601.14234)"),
    "qam-e": Entry("qchunk.algorithms.qam_e:qam_e", "qam, whose chunks an actor edits (2601.14234)"),
    "qam-f": Entry("qchunk.algorithms.qam_f:qam_f", "qam, whose flow teaches a one-step actor (2601.14234)"),
    "trqam": Entry(
        "qchunk.algorithms.trqam:trqam",
        "qam, whose weight keeps the flows' paths within a bound of each other (2605.27079)",
    ),
    "bam": Entry("qchunk.algorithms.bam:bam", "qam by the plain gradient through its stochastic steps (2601.14234)"),
    "dql": Entry(
        "qchunk.algorithms.dql:dql",
        "Diffusion-QL: a diffusion is cloned and climbs a critic through its chain (2208.06193)",
    ),
    "edp": Entry("qchunk.algorithms.edp:edp", "dql through one step, from noised chunks of the data (2305.20081)"),
    "dac": Entry(
        "qchunk.algorithms.dac:dac", "a critic's gradient leans on a diffusion's noise estimates (2405.20555)"
    ),
    "qsm": Entry("qchunk.algorithms.qsm:qsm", "a diffusion whose score is a critic's gradient (2312.11752)"),
    "dtql": Entry(
        "qchunk.algorithms.dtql:dtql", "a one-step actor climbs a critic where a cloned diffusion denoises (2405.19690)"
    ),
    "dipo": Entry("qchunk.algorithms.dipo:dipo", "the data's chunks climb a critic, and are then cloned (2305.13122)"),
    "idql": Entry(
        "qchunk.algorithms.idql:idql", "ifql with a diffusion, that explores by an expectile's weights (2304.10573)"
    ),
    "drwr": Entry(
        "qchunk.algorithms.drwr:drwr", "a diffusion clones what it played, weighted by returns (2409.00588's baseline)"
    ),
    "dawr": Entry(
        "qchunk.algorithms.dawr:dawr", "a diffusion clones chunks weighted by TD(lambda) advantages (1910.00177)"
    ),
    "consistency-ac": Entry(
        "qchunk.algorithms.consistency_ac:consistency_ac",
        "dql through the two steps of a consistency model (2309.16984)",
    ),
    "meanflow-q": Entry(
        "qchunk.algorithms.meanflow_q:meanflow_q",
        "fbrac through the one step of a MeanFlow actor, best of N (2511.13035)",
    ),
    "gfp": Entry("qchunk.algorithms.gfp:gfp", "qc-fql, whose flow clones what is better than its own (2512.03973)"),
    "faster": Entry(
        "qchunk.algorithms.faster:faster", "qc that judges N noises and denoises the best alone (2604.19730)"
    ),
    "expo": Entry("qchunk.algorithms.expo:expo", "N chunks of a cloned flow and an edit of each compete (2507.07986)"),
    "qgf": Entry(
        "qchunk.algorithms.qgf:qgf",
        "a frozen flow, led by an IQL critic's gradient at its clean estimates (2606.11087)",
    ),
    "rlpd": Entry("qchunk.algorithms.rlpd:rlpd", "soft actor-critic over chunks, online beside data (2302.02948)"),
    "sear": Entry(
        "qchunk.algorithms.sear:sear",
        "rlpd by a critic of every prefix, online in plans of chance lengths (2603.01891)",
    ),
    "ogpo": Entry(
        "qchunk.algorithms.ogpo:ogpo",
        "PPO at states of replay: an actor's chunks against each other, by a critic (2605.03065)",
    ),
    "pa-rl": Entry(
        "qchunk.algorithms.pa_rl:pa_rl", "any actor clones its best chunks after they climbed a critic (2412.06685)"
    ),
    "sdac": Entry(
        "qchunk.algorithms.sdac:sdac",
        "an online diffusion follows guesses of what was noised, by their values (2502.00361)",
    ),
    "idem": Entry("qchunk.algorithms.sdac:idem", "sdac by the critic's slopes at the guesses (2402.06121)"),
    "dpmd": Entry(
        "qchunk.algorithms.dpmd:dpmd", "an online diffusion matches its slow copy's chunks, drawn by value (2502.00361)"
    ),
    "qvpo": Entry("qchunk.algorithms.qvpo:qvpo", "an online diffusion matches the best of its own chunks (2405.16173)"),
    "dacer": Entry(
        "qchunk.algorithms.dacer:dacer",
        "an online diffusion climbs a critic of Gaussian returns; entropy sets its noise (2405.15177)",
    ),
    "dqc": Entry(
        "qchunk.algorithms.dqc:dqc",
        "decoupled Q-chunking: values of long chunks choose short ones, for goals (2512.10926)",
    ),
    "qc-prefix": Entry(
        "qchunk.algorithms.qc_prefix:qc_prefix",
        "Q-chunking by a critic of every prefix, which can say how far to play (2605.11009)",
    ),
    "cqn-as": Entry(
        "qchunk.algorithms.cqn_as:cqn_as",
        "no actor: a critic of action sequences, whose best chunk is found by zooming into bins (2411.12155)",
    ),
    "mac": Entry(
        "qchunk.algorithms.mac:mac", "best of N chunks by values of what a model of whole chunks imagines (2512.08108)"
    ),
    "vpn": Entry("qchunk.algorithms.vpn:vpn", "follows N chunks to a depth in a model of latent states (1707.03497)"),
    "muzero": Entry(
        "qchunk.algorithms.muzero:muzero", "Gumbel search over N chunks in a model of latent states (1911.08265)"
    ),
    "opal": Entry(
        "qchunk.algorithms.opal:opal", "IQL over the skills of an earlier run (bc --actor.kind skills) (2010.13611)"
    ),
    "supe": Entry(
        "qchunk.algorithms.supe:supe",
        "soft actor-critic over skills, online beside data without rewards, drawn to what is new (2410.18076)",
    ),
    "supe-gt": Entry("qchunk.algorithms.supe:supe_gt", "supe beside data with rewards (2410.18076)"),
    "qc-frozen": Entry("qchunk.algorithms.qc_frozen:qc_frozen", "Q-chunking on the frozen prior of an earlier run"),
    "v-gps": Entry("qchunk.algorithms.v_gps:v_gps", "re-ranks samples of a frozen prior by an IQL critic (2410.13816)"),
    "top-erl": Entry(
        "qchunk.algorithms.top_erl:top_erl",
        "trajectories as weights, in a trust region, by a transformer's values of their segments (2410.09536)",
    ),
    "dppo": Entry(
        "qchunk.algorithms.dppo:dppo", "PPO through the denoising steps of a prior, or from scratch (2409.00588)"
    ),
    "ppo": Entry("qchunk.algorithms.dppo:ppo", "PPO with a Gaussian over chunks, from a prior or from scratch"),
    "reinflow": Entry(
        "qchunk.algorithms.reinflow:reinflow", "PPO through a flow's few steps, with noise that is learned (2505.22094)"
    ),
    "fpo": Entry("qchunk.algorithms.fpo:fpo", "PPO on a flow by its own losses on what it played (2507.21053)"),
    "fpo++": Entry("qchunk.algorithms.fpo:fpo_by_pair", "fpo by one ratio for each pair of noise and time"),
    "learned-k": Entry(
        "qchunk.algorithms.learned_k:learned_k",
        "PPO over how much of a frozen prior's chunks to play, at a price for each look (2606.11408)",
    ),
    "value-guided": Entry(
        "qchunk.algorithms.value_guided:value_guided", "steers a frozen prior by a value of noisy chunks (2205.09991)"
    ),
}
