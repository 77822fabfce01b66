"""What plugins may import from `opendllm.core`, besides the contracts in `opendllm.registries`: an index.

`core.toolkit`, which samplers, objectives, schedules, corpora and benchmarks share:
    draws           addressed uniform numbers, and tokens drawn from them by inverse CDF
    noise           the corruption's uniform numbers: of the seed and each row's global index
    corrupting      tokens given to noise: masked, or replaced by others
    block_corruption  noisy and clean halves of block diffusion, complementary masks
    noise_bound     the one bound of masks, uniform noise and mixtures, at a time
    posteriors      reverse posteriors of uniform and mixed noise, for samplers
    segments        documents packed in rows: positions, layouts, who sees whom
    ranking         the best positions of each row, ties broken by position; rank_kernels, how a GPU ranks
    step_schedules  how many masks are left after each step, by the published rules
    likelihood      bounds on a text's likelihood, exact for causal models; noise_likelihood, those of other
                    noise than masks
    held_out        which documents are held out where a corpus doesn't say
    rollout_tokens  which tokens of an answer count; masked_views, readings of answers behind masks; traces,
                    the order in which tokens were committed, cut into groups
    policy_losses   clipped ratios, KL estimates, normalisations; policy_advantages, advantages in groups;
                    policy_choices, their names; trace_values, returns from a value a token
    policy_updates  log-probabilities of a policy's terms, and one reading's part of an update
    stdlib_source   the running Python's standard library as texts
    synthetic_functions  small functions with words, bodies and tests, made up by rule

`core.networks`, for backbones of transformers' stock classes:
    transformers_backbone  a family: its config, its keys, its stock class. Start here
    transformers_lm        the stock class as a `DiffusionLM`; `CheckpointFormat`; transformers_loading, which
                           builds and loads it; scoring_module, it with the loss as its forward
    config_keys            what a stock class is built with, out of config.json
    attention              segment-aware attention; segment_kernels and varlen_kernels, its kernels
    canvas_reader          repeated forward passes over a canvas; canvas_cache, the keys and values that it
                           keeps; fused_reading, the same by few large operations;
                           fused_layer, one layer so; few_rows_layers, the same by a few kernels
                           (few_rows_pass, few_rows_layer_kernels, few_rows_product_kernels), few_rows_case,
                           what they are compared on
    token_losses           the LM head's loss, chunk by chunk; logit_chunks, how large a chunk is;
                           fused_slopes, its gradient on a GPU; kept_kernels, where compiled ones are kept
    load_balancing         a mixture's loss that spreads tokens over its experts
    noise_section          what config.json says of the noise that a checkpoint undoes
    weight_files           which tensor is in which file; safetensors_folder, reading and writing them;
                           weight_pieces, experts and fused projections
    placement              over devices and in 8 bit; quantized, what others quantized
    config_checks          keys and sizes of a config.json that the network can't honour, refused by name

`core.scoring`, for benchmarks and rewards:
    problem_files      problems from a file or the hub
    program_scores     verdicts of programs, pass_at_k, statistics (intervals)
    scores_by_setting  per-task values as metrics; infilling_lengths, the lengths infilling is asked at
    lm_eval_instances  how what lm-eval asks is called and put here

`core.sandbox`, for benchmarks and rewards that run programs: `sandbox.Sandbox`, `parallel` (many small ones),
    `limits.Limits`; a judge's script imports `remote` and `values`.

`core.foundation`, for everybody, none of it loads torch: json_lines, json_objects, sample_records,
    packed_files, globs, fingerprints (of what files hold), atomic_files, option_errors, hub, ranks,
    process_group, shared_errors, notices, decoding_traces, contamination_file, peak_memory, visible_text,
    loopback (which hosts are this machine), cores (those that a process may use), heavy_imports (torch and
    transformers, as quickly as they can be had: with device_start and kept_names), cache_folder.
"""
