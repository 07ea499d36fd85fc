%% Plays scenarios on OTP's own supervisor and prints what happened, one JSON array a scenario.
%%
%% Usage: erl -noshell +S 1 -run player main SCENARIOS TRACES
%% SCENARIOS holds one Erlang term a line, as tests/otp/record.py writes them.

-module(player).
-behaviour(supervisor).
-export([main/1, init/1, start_child/1, start_child/2, loop/1, log/2, start_tree/1]).

main([ScenariosPath, TracesPath]) ->
    logger:set_primary_config(level, error),
    logger:remove_handler(default),
    logger:add_handler(player, player, #{}),
    {ok, Scenarios} = file:consult(ScenariosPath),
    {ok, Out} = file:open(TracesPath, [write]),
    lists:foreach(fun(Scenario) -> io:format(Out, "~s~n", [play(Scenario)]) end, Scenarios),
    file:close(Out),
    halt(0).

%% One scenario --------------------------------------------------------------------------------------------------------

play({Name, Spec, Steps}) ->
    process_flag(trap_exit, true),
    ets:new(starts, [named_table, public]),
    ets:new(pids, [named_table, public]),
    Collector = spawn_link(fun() -> collect([], #{}) end),
    register(collector, Collector),
    case start_tree({top, Spec}) of
        {ok, Top} ->
            settle(Top),
            step(Top, Steps);
        {error, _} ->
            note(["not_started"])
    end,
    Collector ! {give, self()},
    Trace = receive {trace, Events} -> Events end,
    unlink(Collector),
    exit(Collector, kill),
    wait_gone(Collector),
    ets:delete(starts),
    ets:delete(pids),
    flush(),
    ["[\"", Name, "\", ", json(Trace), "]"].

wait_gone(Pid) ->
    Ref = monitor(process, Pid),
    receive {'DOWN', Ref, process, Pid, _} -> ok end.

flush() ->
    receive _ -> flush() after 0 -> ok end.

step(Top, []) ->
    finish(Top);
step(Top, [Step | Rest]) ->
    note(["step" | [text(Part) || Part <- tuple_to_list(Step), is_atom(Part)]]),
    act(Step, Top),
    settle(Top),
    case is_process_alive(Top) of
        true ->
            note(["state" | lists:sort(states(top))]),
            step(Top, Rest);
        false ->
            note(["down"])
    end.

finish(Top) ->
    note(["step", "stop"]),
    exit(Top, shutdown),
    receive {'EXIT', Top, _} -> ok end,
    note(["down"]).

act({crash, Id}, _) -> poke(Id, crash);
act({exit, Id}, _) -> poke(Id, exit);
act({pass}, _) -> timer:sleep(2100);
act({terminate, Sup, Id}, _) -> answer(catch supervisor:terminate_child(Sup, key(Sup, Id)));
act({restart, Sup, Id}, _) -> answer(catch supervisor:restart_child(Sup, Id));
act({delete, Sup, Id}, _) -> answer(catch supervisor:delete_child(Sup, Id));
act({start, Sup, Child}, _) -> answer(catch supervisor:start_child(Sup, child_spec(Child)));
act({dynamic, Sup, Name, Fails}, _) -> answer(catch supervisor:start_child(Sup, [{Name, Fails}])).

key(Sup, Id) ->
    case ets:lookup(starts, {dynamic, Sup}) of
        [] -> Id;
        _ -> case ets:lookup(pids, Id) of [{_, Pid}] -> Pid; [] -> self() end
    end.

answer({ok, _}) -> note(["answer", "ok"]);
answer(ok) -> note(["answer", "ok"]);
answer({'EXIT', {noproc, _}}) -> note(["answer", "noproc"]);
answer({error, Reason}) when is_atom(Reason) -> note(["answer", atom_to_list(Reason)]);
answer({error, {already_started, _}}) -> note(["answer", "already_started"]);
answer({error, _}) -> note(["answer", "failed"]).

poke(Id, What) ->
    case ets:lookup(pids, Id) of
        [{_, Pid}] ->
            case is_process_alive(Pid) of
                true ->
                    Ref = monitor(process, Pid),
                    Pid ! What,
                    receive {'DOWN', Ref, process, Pid, _} -> ok end;
                false -> note(["absent", text(Id)])
            end;
        [] -> note(["absent", text(Id)])
    end.

%% Wait until nothing happens any more: every supervisor answers, none restarts, and the trace has stopped growing.
settle(Top) -> settle(Top, -1, 0).

settle(_, _, 4) -> ok;
settle(Top, Before, Same) ->
    Restarting = is_process_alive(Top) andalso lists:any(fun([_, State]) -> State =:= "restarting" end, states(top)),
    timer:sleep(2),
    collector ! {count, self()},
    Count = receive {count, N} -> N end,
    case not Restarting andalso Count =:= Before of
        true -> settle(Top, Count, Same + 1);
        false -> settle(Top, Count, 0)
    end.

states(Sup) ->
    try supervisor:which_children(Sup) of
        Children -> lists:append([state_of(Child) || Child <- Children])
    catch exit:_ -> []
    end.

state_of({undefined, restarting, _, _}) -> [["?", "restarting"]];
state_of({undefined, Pid, _, _}) ->
    [[text(Id), "running"] || {Id, Known} <- ets:tab2list(pids), Known =:= Pid];
state_of({Id, undefined, _, _}) -> [[text(Id), "stopped"]];
state_of({Id, restarting, _, _}) -> [[text(Id), "restarting"]];
state_of({Id, _, supervisor, _}) -> [[text(Id), "running"] | states(Id)];
state_of({Id, _, worker, _}) -> [[text(Id), "running"]].

%% Supervisors ---------------------------------------------------------------------------------------------------------

start_tree({Name, Spec}) -> supervisor:start_link({local, Name}, player, {Name, Spec}).

init({Name, {Strategy, Intensity, Period, AutoShutdown, Children}}) ->
    case Strategy of
        simple_one_for_one -> ets:insert(starts, {{dynamic, Name}, true});
        _ -> ok
    end,
    Flags = #{strategy => Strategy, intensity => Intensity, period => Period, auto_shutdown => AutoShutdown},
    {ok, {Flags, [case Strategy of simple_one_for_one -> recipe(Child); _ -> child_spec(Child) end || Child <- Children]}}.

child_spec({tree, Id, Restart, Significant, Spec}) ->
    #{id => Id, start => {player, start_tree, [{Id, Spec}]}, restart => Restart, shutdown => infinity,
      significant => Significant, type => supervisor};
child_spec({Id, Restart, Shutdown, Significant, Fails, Stuck}) ->
    #{id => Id, start => {player, start_child, [{Id, Fails, Stuck}]}, restart => Restart, shutdown => Shutdown,
      significant => Significant}.

recipe({_, Restart, Shutdown, Significant, _, Stuck}) ->
    #{id => recipe, start => {player, start_child, [Stuck]}, restart => Restart, shutdown => Shutdown,
      significant => Significant}.

%% Children ------------------------------------------------------------------------------------------------------------

start_child(Stuck, {Id, Fails}) -> start_child({Id, Fails, Stuck}).

start_child({Id, Fails, Stuck}) ->
    Start = ets:update_counter(starts, Id, 1, {Id, 0}),
    proc_lib:start_link(?MODULE, loop, [{begin_as, self(), Id, lists:member(Start, Fails), Stuck}]).

loop({begin_as, _, Id, true, _}) ->
    note(["fail", text(Id)]),
    proc_lib:init_ack({error, failed}),
    exit(normal);
loop({begin_as, Parent, Id, false, Stuck}) ->
    process_flag(trap_exit, true),
    ets:insert(pids, {Id, self()}),
    collector ! {watch, self(), Id},
    note(["start", text(Id)]),
    proc_lib:init_ack({ok, self()}),
    loop({run, Parent, Id, Stuck});
loop({run, Parent, Id, Stuck} = Self) ->
    receive
        crash -> note(["crash", text(Id)]), exit(boom);
        exit -> note(["exit", text(Id)]), exit(normal);
        {'EXIT', Parent, Reason} ->
            note(["stop", text(Id)]),
            case Stuck of
                true -> receive never -> ok end;
                false -> exit(Reason)
            end;
        _ -> loop(Self)
    end.

%% What happened -------------------------------------------------------------------------------------------------------

note(Event) -> collector ! {note, Event}, ok.

%% A handler of OTP's logger: the one report that tells why a supervisor ends.
log(#{msg := {report, #{label := {supervisor, shutdown}, report := Report}}}, _) ->
    case {proplists:get_value(reason, Report), proplists:get_value(supervisor, Report)} of
        {reached_max_restart_intensity, {local, Name}} -> note(["gave_up", text(Name)]);
        _ -> ok
    end;
log(_, _) -> ok.

collect(Events, Watched) ->
    receive
        {note, Event} -> collect([Event | Events], Watched);
        {watch, Pid, Id} -> collect(Events, Watched#{monitor(process, Pid) => Id});
        {'DOWN', Ref, process, _, killed} -> collect([["killed", text(maps:get(Ref, Watched))] | Events], Watched);
        {'DOWN', _, process, _, _} -> collect(Events, Watched);
        {count, From} -> From ! {count, length(Events)}, collect(Events, Watched);
        {give, From} -> From ! {trace, lists:reverse(Events)}
    end.

text(Value) when is_atom(Value) -> atom_to_list(Value);
text(Value) when is_list(Value) -> Value.

%% Strings are lists of integers; everything else is a list of values.
json([]) -> "[]";
json([First | _] = String) when is_integer(First) -> ["\"", String, "\""];
json(List) -> ["[", lists:join(", ", [json(Part) || Part <- List]), "]"].
